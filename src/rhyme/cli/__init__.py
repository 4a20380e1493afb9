"""The command line: parse, call :mod:`rhyme.api`, print.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done with quarantined files, 75 saved and to be
requeued.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rhyme.errors import ConfigError, RhymeError, UnknownName, disk_trouble, nearest
from rhyme.group import check_alone, follower, started_as_rank
from rhyme.notices import let_go, open_closed_streams, tell
from rhyme.signals import StartGuard

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("rhyme.cli.run_commands:Demo", "world, training, evaluation, search, report"),
    "doctor": ("rhyme.cli.show_commands:Doctor", "what this machine has and lacks"),
    "systems": ("rhyme.cli.show_commands:Systems", "the systems and their state"),
    "recipes": ("rhyme.cli.show_commands:Recipes", "the recipes, or one of them as YAML"),
    "world": ("rhyme.cli.data_commands:World", "make a world of videos with ground truth"),
    "scan": ("rhyme.cli.data_commands:Scan", "look through a folder and write its catalog"),
    "estimate": ("rhyme.cli.show_commands:Estimate", "time, memory and disk of a run, measured"),
    "prepare": ("rhyme.cli.data_commands:Prepare", "write training-size shards, read much faster"),
    "train": ("rhyme.cli.run_commands:Train", "train an encoder, or go on with a run"),
    "evaluate": ("rhyme.cli.run_commands:Evaluate", "judge a run beside the untrained encoder"),
    "compare": ("rhyme.cli.run_commands:Compare", "figures of several runs side by side"),
    "embed": ("rhyme.cli.use_commands:Embed", "embed a collection into a store"),
    "search": ("rhyme.cli.use_commands:Search", "find moments like a given one"),
    "report": ("rhyme.cli.use_commands:Report", "write a run's page of evidence"),
    "export": ("rhyme.cli.use_commands:Export", "write the encoder for other programs"),
    "runs": ("rhyme.cli.show_commands:Runs", "list the runs in a folder"),
}
"""Command to (``module:function``, what it does)."""

LISTINGS = {"doctor", "systems", "recipes", "compare", "search", "runs"}
"""Commands that only show: who closes their output has seen enough of it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Args:
        argv: the arguments after the program's name; those of the process by default.
    """
    open_closed_streams()
    code = run(list(sys.argv[1:] if argv is None else argv))
    let_go()
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one command.

    Args:
        argv: command and its arguments.

    Returns:
        The exit code.
    """
    from rhyme.cli.answer import answering, print_answer, print_error

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter shows its code
            stream.reconfigure(errors="backslashreplace")
    as_json = "--json" in argv
    try:
        if not argv or argv[0] in ("-h", "--help", "help"):
            with answering(listing=True):
                print(_usage())
            return 0
        if argv[0] in ("-V", "--version", "version"):
            import rhyme

            with answering(listing=True):
                print(f"rhyme {rhyme.__version__}")
            return 0
        with _start_of(argv):
            command = _parse(argv[0], argv[1:])
            answer = None if command is None else command()
        if answer is None:
            return 0
        with answering(listing=argv[0] in LISTINGS):
            print_answer(answer, as_json=as_json)
        return answer.exit_code
    except RhymeError as error:
        # What is wrong with the options is so on all ranks, and the leader says it.
        if not error.told and not (follower() and isinstance(error, ConfigError)):
            print_error(error, as_json=as_json)
        return error.exit_code
    except OSError as error:
        print_error(disk_trouble(error, argv[0]), as_json=as_json)
        return 1
    except KeyboardInterrupt:
        tell("rhyme: stopped")
        return 130


def _start_of(argv: Sequence[str]) -> contextlib.AbstractContextManager[object]:
    """Signals that find a training before its first step, also while its libraries are read."""
    queued = any(word.endswith("slurm") for word in argv)  # its first step is taken elsewhere
    if argv[0] != "train" or queued or started_as_rank():
        return contextlib.nullcontext()
    again = "nothing was begun: give the same command again"
    return StartGuard("before the first step", file=None, remedy=lambda: again)


def _usage() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{about}" for name, (_, about) in COMMANDS.items()]
    return (
        "usage: rhyme COMMAND [options]\n\n"
        "Contrastive self-supervised learning from video: train, judge, embed, search.\n\n"
        + "\n".join(lines)
        + "\n\nOf each command: rhyme COMMAND --help\n"
        "Example: rhyme train cycle_contrast --data my_videos --out runs/mine"
    )


def _parse(name: str, arguments: list[str]) -> Callable[[], Any] | None:
    """The command, ready to be called; None where its help was asked for and shown."""
    if name not in COMMANDS:
        raise UnknownName(
            f"unknown command '{name}'", remedy=nearest(name, COMMANDS), stage="command line"
        )
    import tyro

    from rhyme.cli.answer import answering

    module, attribute = COMMANDS[name][0].split(":")
    command: type[Any] = getattr(importlib.import_module(module), attribute)
    if not getattr(command, "runs_on_ranks", False) and not {"-h", "--help"} & set(arguments):
        check_alone(f"rhyme {name}")
    check_once(arguments, getattr(command, "listed", ()))
    overrides, rest = split_overrides(arguments, getattr(command, "nested", ()))
    takes_overrides = getattr(command, "takes_overrides", False)
    if overrides and not takes_overrides:
        raise ConfigError(
            f"'rhyme {name}' takes no dotted options",
            value=next(iter(overrides)),
            remedy=f"see: rhyme {name} --help",
        )
    bound = None
    try:
        quiet = (
            contextlib.redirect_stderr(io.StringIO()) if follower() else contextlib.nullcontext()
        )
        with quiet, answering(listing=True):
            bound = tyro.cli(command, args=rest, prog=f"rhyme {name}")
    except SystemExit as stop:
        if stop.code in (0, None):
            with answering(listing=True):
                return None
        raise ConfigError(
            f"cannot read the arguments of 'rhyme {name}'", remedy=_way_out(name, command, rest)
        ) from stop
    return partial(bound, overrides) if takes_overrides and bound is not None else bound


def _way_out(name: str, command: type[Any], rest: Sequence[str]) -> str:
    """What to do about arguments that cannot be read: data are named, not put second."""
    named = "data" in inspect.signature(command).parameters and "--data" not in rest
    if named and len(rest) > 1 and not rest[0].startswith("-") and Path(rest[1]).exists():
        return f"the data go by name: rhyme {name} {rest[0]} --data {rest[1]}"
    return f"see: rhyme {name} --help"


def check_once(arguments: Sequence[str], listed: Collection[str]) -> None:
    """Refuse an option that takes a list and is given twice: the first list would be lost.

    Raises:
        ConfigError: with the option.
    """
    heads = [argument.partition("=")[0] for argument in arguments]
    for option in listed:
        if heads.count(option) > 1:
            raise ConfigError(
                f"option '{option}' is given twice",
                stage="command line",
                remedy=f"give it once, its values separated by commas: {option} A,B",
            )


def split_overrides(
    arguments: Sequence[str], nested: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Take ``--a.b value`` and ``--a.b=value`` out of the arguments.

    Args:
        arguments: what the user typed after the command.
        nested: first parts of dotted options that are the command's own and stay.

    Returns:
        The dotted options with their values read as YAML, and the other arguments.

    Raises:
        ConfigError: a dotted option without a value.
    """
    import yaml

    overrides: dict[str, Any] = {}
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        head, sign, text = argument.partition("=")
        dotted = head.startswith("--") and "." in head and "/" not in head
        if not dotted or head[2:].partition(".")[0] in nested:
            rest.append(argument)
            continue
        if not sign:
            if not queue or queue[0].startswith("--"):
                raise ConfigError(
                    f"option '{head}' needs a value", remedy=f"write {head} VALUE", value=argument
                )
            text = queue.pop(0)
        try:
            overrides[head[2:].replace("-", "_")] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"cannot read the value of '{head}'", value=text) from error
    return overrides, rest
