"""Tables of the docs, made from the rows in ``results/`` and from nothing else.

    python -m benchmarks.tables            rewrite them
    python -m benchmarks.tables --check    1 where a page differs from its rows; nothing is written

A page says ``<!-- table NAME -->`` ... ``<!-- end -->``; what stands between becomes the table of
``results/NAME.jsonl``, rows of :class:`rhyme.evaluation.Result`, an arm by ``encoder``.

A *repetition* is one collection, split and seed of the evaluation; in the evidence, the seed of the
training too. What an arm has several values for in one (the untrained encoder has three sets of
fresh weights) is averaged there first, so that all arms of a column rest on the same repetitions.
An encoder that was evaluated with several seeds on one split has one repetition there. Means and
deviations are taken over repetitions, differences over those that both arms have.

``<!-- beside NAME NAME of PROTOCOL/METRIC ... -->`` ... ``<!-- end -->`` sets studies side by side:
a line an arm or a difference that all of them have, a column a metric and study.
``<!-- gains NAME within LIMIT`` ... ``-->`` ... ``<!-- end -->`` draws differences into a picture
(:mod:`benchmarks.gains`).
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from benchmarks.gains import CAPTION, lines_of, svg, words
from rhyme.evaluation import Result, read_results
from rhyme.evaluation.pairing import EVALUATION_SEED, REPEATED, split_of

ROOT = Path(__file__).parent.parent
NOTHING = "*not measured yet*"
UNTRAINED = "untrained"
# Settings that tell the repetitions of one measurement apart.
REPETITION = (*REPEATED, EVALUATION_SEED)
NOTE = (
    "Cells: mean ± standard deviation over repetitions (how many), a repetition being one "
    "collection, split and seed; differences are paired by repetition. The untrained encoder is a "
    "mean over its fresh weights in each."
)
FEW = 3
"""Differences between arms that stand in the table of the arms; more of them are folded away."""
BLOCK = re.compile(
    r"(?P<begin><!-- (?:table (?P<table>[\w.-]+)|"
    r"beside (?P<beside>[^\n]+?) of (?P<of>[^\n]+)|"
    r"gains (?P<gains>\w+) within (?P<within>[\d.]+)\n(?P<asked>[^>]+?)) ?-->\n)"
    r"(?P<body>.*?)(?P<end><!-- end -->)",
    re.S,
)

Values = dict[str, float]  # a value by repetition


def collect(rows: Iterable[Result]) -> dict[tuple[str, str], dict[str, Values]]:
    """Values by (protocol, metric), arm and repetition; a row measured twice counts once."""
    last: dict[tuple[str, ...], Result] = {}
    for row in rows:
        job = str(row.details.get("job", ""))
        last[row.protocol, row.metric, _variant(row), row.encoder, job, row.pair] = row
    several = {name for name, kinds in _settings(last.values()).items() if len(kinds) > 1}
    found: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    first: dict[tuple[str, str], str] = {}
    for row in last.values():
        metric = row.metric
        if (row.protocol, metric) in several:
            metric = f"{metric} ({_variant(row)})"
        arms = found.setdefault((row.protocol, metric), {})
        place = (row.checkpoint, split_of(row.pair, row.seed))
        repetition = first.setdefault(place, row.repetition)
        arms.setdefault(row.encoder, {}).setdefault(repetition, []).append(row.value)
    return {
        key: {
            arm: {r: fmean(values) for r, values in repetitions.items()}
            for arm, repetitions in arms.items()
        }
        for key, arms in found.items()
    }


def _variant(row: Result) -> str:
    kept = {k: v for k, v in row.settings.items() if k not in REPETITION}
    text = json.dumps(kept, sort_keys=True, default=str).strip("{}").replace('"', "")
    return re.sub(r", seed \d+", "", text)  # a drawn split is named with its seed


def _settings(rows: Iterable[Result]) -> dict[tuple[str, str], set[str]]:
    kinds: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        kinds.setdefault((row.protocol, row.metric), set()).add(_variant(row))
    return kinds


def spread(values: Sequence[float]) -> str:
    """``mean ± sd (n)`` of the finite values; the sd needs two."""
    kept = [v for v in values if math.isfinite(v)]
    if not kept:
        return "–"
    deviation = f" ± {stdev(kept):.3f}" if len(kept) > 1 else ""
    return f"{fmean(kept):.3f}{deviation} ({len(kept)})"


def paired(arm: Values, other: Values) -> list[float]:
    """The finite differences over the repetitions that both have."""
    gains = [arm[r] - other[r] for r in arm if r in other]
    return [g for g in gains if math.isfinite(g)]


def difference(arm: Values, other: Values) -> str:
    """``mean ± sd (n)`` of the paired differences, and in how many of them the arm is higher."""
    gains = paired(arm, other)
    if not gains:
        return "–"
    deviation = f" ± {stdev(gains):.3f}" if len(gains) > 1 else ""
    return f"{fmean(gains):+.3f}{deviation} ({sum(g > 0 for g in gains)} of {len(gains)} higher)"


def order(arms: Iterable[str]) -> list[str]:
    """The untrained encoder first, then the arms as their rows came."""
    return sorted(dict.fromkeys(arms), key=lambda arm: arm != UNTRAINED)


def grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)]


def table(rows: Sequence[Result]) -> str:
    """All there is to show of a study, as Markdown."""
    if not rows:
        return NOTHING
    found = collect(rows)
    names = order(row.encoder for row in rows)
    lines: list[str] = []
    # The figures behind a head (metric@head) are a measurement of their own.
    for part in dict.fromkeys((protocol, metric.partition("@")[2]) for protocol, metric in found):
        protocol, behind = part
        metrics = [k for k in found if (k[0], k[1].partition("@")[2]) == part]
        where = f", behind head `{behind}`" if behind else ""
        lines += [f"**{protocol}**{where}", ""]
        body = [[name, *_cells(found, metrics, name)] for name in names]
        chance = [_chance(rows, protocol, metric) for _, metric in metrics]
        body += [["a guess", *chance]] if any(c != "–" for c in chance) else []
        gains = [
            [f"{b} − {a}", *[_gain(found[m], b, a) for m in metrics]]
            for a, b in combinations(names, 2)
        ]
        body, gains = (
            [line for line in part if any(cell != "–" for cell in line[1:])]
            for part in (body, gains)
        )
        head = ["", *[f"`{m.partition('@')[0]}`" for _, m in metrics]]
        if len(gains) <= FEW:
            lines += [*grid(head, body + gains), ""]
            continue
        told = f"{where.replace('`', '')}"
        lines += [*grid(head, body), ""]
        lines += folded(f"{len(gains)} differences in {protocol}{told}", grid(head, gains))
    lines += [NOTE, ""]
    if lost := sum(not math.isfinite(row.value) for row in rows):
        lines += [f"**{lost} values are not finite** and no part of the means.", ""]
    return "\n".join([*lines, *folded("How these rows were made", facts(rows))]).rstrip()


def beside(studies: Mapping[str, Sequence[Result]], metrics: Sequence[str]) -> str:
    """A few figures of several studies side by side, as Markdown.

    Args:
        studies: rows by name of the study.
        metrics: ``protocol/metric`` each.
    """
    if not all(studies.values()):
        return NOTHING
    found = {name.rpartition("_")[2]: collect(rows) for name, rows in studies.items()}
    asked = [(*metric.split("/", 1), name) for metric in metrics for name in found]
    columns = [found[name].get((protocol, metric), {}) for protocol, metric, name in asked]
    shared = [n for n in order(columns[0]) if all(n in column for column in columns)]
    lines = [[n, *[spread([*column[n].values()]) for column in columns]] for n in shared]
    lines += [
        [f"{b} − {a}", *[_gain(column, b, a) for column in columns]]
        for a, b in combinations(shared, 2)
        if a != UNTRAINED
    ]
    heads = [f"{protocol} `{metric}`, {name}" for protocol, metric, name in asked]
    return "\n".join(grid(["", *heads], lines))


def folded(title: str, lines: Sequence[str]) -> list[str]:
    """Markdown that a reader opens with a click, on GitHub and on the site."""
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]


def _cells(found: Mapping[Any, dict[str, Values]], metrics: Iterable[Any], arm: str) -> list[str]:
    return [spread([*found[m].get(arm, {}).values()]) for m in metrics]


def _gain(arms: Mapping[str, Values], arm: str, other: str) -> str:
    return difference(arms.get(arm, {}), arms.get(other, {}))


def _chance(rows: Iterable[Result], protocol: str, metric: str) -> str:
    own = [r for r in rows if r.protocol == protocol and r.metric == metric.partition(" (")[0]]
    known = [r.chance for r in own if metric in (r.metric, f"{r.metric} ({_variant(r)})")]
    finite = [c for c in known if c is not None and math.isfinite(c)]
    return f"{fmean(finite):.3f}" if finite else "–"


def facts(rows: Sequence[Result]) -> list[str]:
    """Recipes, sizes, seeds, command, commits and machines, a line each."""
    trained = [row for row in rows if row.encoder != UNTRAINED]
    seeds = _listed(str(s) for s in sorted({row.seed for row in trained}))
    lines = [f"- {_recipe(rows, arm)}" for arm in order(row.encoder for row in trained)]
    sizes = [
        f"{name} {_range(row.details[key] for row in rows if key in row.details)}"
        for name, key in (("train", "train_items"), ("val", "val_items"), ("test", "test_items"))
        if any(row.details.get(key) for row in rows)  # what is judged as a whole has no split
    ]
    other = [row.details for row in rows if "trained_data" in row.details]
    taken = dict.fromkeys(f"{d['trained_items']:,} of {d['trained_data']}" for d in other)
    lines += [f"- trained on items: {_listed(taken)}"] if taken else []
    lines += [f"- items{' judged' if taken else ''}: {', '.join(sizes)}"] if sizes else []
    apart = any("trained_on" in row.details for row in rows)
    lines += [f"- seeds: {seeds}", f"- command: {_listed(f'`{row.command}`' for row in rows)}"]
    lines[-1] += ", which is not how these rows came: trained and judged apart" if apart else ""
    lines += [f"- commits: {_listed(f'`{row.commit}`' if row.commit else '?' for row in rows)}"]
    judged = "judged on" if apart else "machine"
    lines += [f"- {judged}: {m}" for m in dict.fromkeys(_machine(row) for row in rows)]
    return lines


def _recipe(rows: Sequence[Result], arm: str) -> str:
    own = [row.details for row in rows if row.encoder == arm]
    recipe = _listed(f"`{d['recipe']}`" for d in own if "recipe" in d) or "recipe not recorded"
    changes = {f"`{k}={v}`": None for d in own for k, v in d.get("changes", {}).items()}
    spent = {str(d.get("job")): float(d["train_seconds"]) for d in own if "train_seconds" in d}
    took = f", trained in {_range(round(s) for s in spent.values())} s" if spent else ""
    for said, key in (
        (" on", "trained_on"),
        (" beside", "trained_beside"),
        (" at", "train_commit"),
    ):
        took += f"{said} {_listed(str(d[key]) for d in own)}" if all(key in d for d in own) else ""
    return f"{arm}: {recipe}{' with ' + ', '.join(changes) if changes else ''}{took}"


def _machine(row: Result) -> str:
    known = row.details.get("machine") or {}
    return ", ".join(f"{k} {v}" for k, v in known.items() if v is not None) or "?"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _range(values: Iterable[Any]) -> str:
    known = sorted(set(values))
    return f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"


class Filled(NamedTuple):
    """A page, and its pictures by name."""

    page: str
    pictures: dict[str, str]


def fill(page: str, results: Path, images: str = "images") -> Filled:
    """The page with every table and picture made anew.

    Args:
        page: Markdown.
        results: folder of the rows.
        images: the folder of pictures as the page calls it.

    Raises:
        ValueError: a table's begin has no end, or a picture's line cannot be read.
    """
    begun = re.findall(r"^<!-- (?:table|beside|gains) .+", page, re.M)
    if begun != [match["begin"].partition("\n")[0] for match in BLOCK.finditer(page)]:
        raise ValueError(f"a table is not closed by '<!-- end -->', one of {begun}")
    pictures: dict[str, str] = {}

    def rows(name: str) -> list[Result]:
        return read_results(results / f"{name}.jsonl")

    def differences(study: str, metric: str, arm: str, other: str) -> list[float]:
        protocol, _, name = metric.partition("/")
        arms = collect(rows(study)).get((protocol, name), {})
        return paired(arms.get(arm, {}), arms.get(other, {}))

    def made(match: re.Match[str]) -> str:
        if match["gains"]:
            name, lines = f"gains-{match['gains']}.svg", lines_of(match["asked"], differences)
            pictures[name] = svg(lines, float(match["within"]))
            text = f"![{words(lines)}]({images}/{name})\n\n*{CAPTION}*"
        elif match["table"]:
            text = table(rows(match["table"]))
        else:
            text = beside({n: rows(n) for n in match["beside"].split()}, match["of"].split())
        return f"{match['begin']}\n{text}\n\n{match['end']}"

    return Filled(BLOCK.sub(made, page), pictures)


def stale(docs: Path, results: Path) -> dict[Path, str]:
    """Pages and pictures that differ from their rows, and what should stand there."""
    wanted: dict[Path, str] = {}
    for path in sorted(docs.rglob("*.md")):
        up = "../" * (len(path.relative_to(docs).parts) - 1)
        page, pictures = fill(path.read_text(encoding="utf-8"), results, f"{up}images")
        wanted |= {path: page, **{docs / "images" / n: text for n, text in pictures.items()}}
    return {
        path: text
        for path, text in wanted.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the pages, or say which would be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where pages differ")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args(argv)
    pages = stale(options.docs, options.results)
    for path, page in pages.items():
        print(f"{path}: {'differs from its rows' if options.check else 'rewritten'}")
        if not options.check:
            path.write_text(page, encoding="utf-8")
    if pages and options.check:
        print("make them anew: python -m benchmarks.tables", file=sys.stderr)
    return 1 if pages and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
