"""How commands of the docs are made small: these options take these values, and no others change.

An option that a page gives itself is given the value of the table too; all others stay as typed.
"""

from __future__ import annotations

from rhyme.evaluation import load_protocol
from rhyme.evaluation.protocol import parse_settings

TRAINING = {
    "--train.steps": "2",
    "--train.batch_size": "8",
    "--train.schedule.warmup_steps": "0",
    "--train.log_every": "1",
    "--train.probe_every": "2",
}
"""Two steps of eight items."""

OPTIONS: dict[str, dict[str, str]] = {
    "scan": {"--workers": "0"},
    "prepare": {"--workers": "0", "--size": "32"},
    "world": {"--workers": "0", "--size": "30"},
    "estimate": {"--seconds": "1", "--train.batch_size": "8"},
    "evaluate": {"--frames": "2"},
}
"""By command: no further processes, small frames, short measuring."""

FEWER = {"--videos": 40, "--untrimmed": 60, "--items": 200}
"""At most so many."""

PROTOCOLS = {
    "semi_supervised": {"fractions": "[0.5]", "epochs": "[1]", "batch_size": "8"},
    "finetune": {"epochs": "1", "milestones": "[1]", "batch_size": "8"},
    "linear_sgd": {"epochs": "1", "milestones": "[1]", "batch_size": "8"},
    "linear_stored": {"epochs": "2", "milestones": "[1]"},
    "segmentation": {"stages": "1", "layers": "2", "epochs": "1"},
    "propagation": {"height": "48"},
    "cells": {"cells": "200"},
}
"""Settings of protocols that train: one epoch."""


def reduced(words: list[str]) -> list[str]:
    """A command of rhyme, without that name, in its small form."""
    verb, *rest = words
    values = {} if "--verify" in rest else dict(OPTIONS.get(verb, {}))  # it takes no others
    if verb == "train" and "--resume" not in rest:
        values |= TRAINING
    if verb == "evaluate" and "--protocol" in rest:
        for name in rest[rest.index("--protocol") + 1].split(","):
            values |= {f"--{name}.{key}": value for key, value in PROTOCOLS.get(name, {}).items()}
            if not stepped(name, rest):
                values.pop(f"--{name}.milestones", None)
    if "--encoder" in rest:
        values |= {"--size": "32", "--resize": "32"}
    for option, most in FEWER.items():
        if option in rest:
            values[option] = str(min(int(rest[rest.index(option) + 1]), most))
    return [verb, *_set(rest, values)]


def stepped(protocol: str, words: list[str]) -> bool:
    """Whether the preset of a protocol that a command names has a schedule of steps."""
    if f"--{protocol}.preset" not in words:
        return False
    preset = words[words.index(f"--{protocol}.preset") + 1]
    settings = parse_settings(load_protocol(protocol), {"preset": preset})
    return getattr(settings, "schedule", None) == "step"


def _set(words: list[str], values: dict[str, str]) -> list[str]:
    """Words of a command with options set, in place or at the end."""
    out, left = list(words), dict(values)
    for i, word in enumerate(words):
        name = word.replace("-", "_").replace("__", "--", 1)
        if name in left:
            out[i + 1] = left.pop(name)
    return [*out, *(word for pair in left.items() for word in pair)]
