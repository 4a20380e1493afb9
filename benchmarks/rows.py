"""Rows of ``results/bench.jsonl`` as a file, as a table on the terminal, and in the docs."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench -->", "<!-- end -->"

Record = Mapping[str, Any]


def append(path: Path, rows: Iterable[Record]) -> None:
    """Add rows, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def newest(path: Path) -> list[dict[str, Any]]:
    """The last row of each name, in order of name."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    last = {row["name"]: row for row in rows}
    return [last[name] for name in sorted(last)]


def cells(row: Record) -> list[str]:
    """Name, peer, both medians, ratio with spread, expectation, whether it was met."""
    low, high = row["spread"]
    medians, unit = row["medians"], row["unit"]
    return [
        row["name"],
        row["peer"],
        amount(medians["ours"], unit),
        amount(medians["peer"], unit),
        f"{row['ratio']:.2f} ({low:.2f}–{high:.2f})",
        f"≥ {row['expectation']['at_least']:g}",
        "yes" if row["met"] else "no",
    ]


HEAD = ("what", "against", "ours", "other side", "ratio (spread)", "expected", "met")


def amount(value: float, unit: str) -> str:
    """A measured value, short: seconds below one as milliseconds."""
    if unit == "s" and value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def text(rows: Iterable[Record]) -> str:
    """A table for the terminal, with the notes of what was missed below."""
    rows = list(rows)
    table = [list(HEAD), *(cells(row) for row in rows)]
    widths = [max(len(line[k]) for line in table) for k in range(len(HEAD))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in table
    ]
    return "\n".join(lines + [f"! {row['name']}: {row['note']}" for row in rows if row["note"]])


def markdown(rows: Iterable[Record]) -> str:
    """A table for the docs, what was missed and why, and what it was measured on."""
    rows = list(rows)
    if not rows:
        return "Nothing has been measured yet."
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    missed = [row for row in rows if not row["met"]]
    if missed:
        lines += ["", "Missed:", ""]
        lines += [f"- `{row['name']}`: {row['note'] or 'cause not known'}" for row in missed]
    lines.append("")
    machines = {json.dumps(_steady(row["machine"]), sort_keys=True): row for row in rows}
    for row in machines.values():
        facts = row["machine"]
        own = [r for r in rows if _steady(r["machine"]) == _steady(facts)]
        loads = [r["machine"]["load"] for r in own]
        commits = Counter(str(r["commit"]) for r in own)
        with_gpu = f" and one {facts['gpu']}" if facts.get("gpu") else ""
        lines.append(
            f"Measured on {facts['cores']} cores ({facts['cpu']}){with_gpu}, "
            f"torch {facts['torch']}, Python {facts['python']}, "
            f"load {min(loads):.1f} to {max(loads):.1f}, rows by commit: "
            + ", ".join(f"`{commit}` {count}" for commit, count in commits.items())
            + "."
        )
    return "\n".join(lines)


def _steady(machine: Record) -> dict[str, Any]:
    """Facts of the machine that do not change while benchmarks run."""
    return {name: value for name, value in machine.items() if name not in ("load", "threads")}


def fill(page: str, table: str) -> str:
    """The page with everything between the two marks replaced.

    Raises:
        ValueError: a mark is missing.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page must hold {BEGIN} and {END} once each")
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"
