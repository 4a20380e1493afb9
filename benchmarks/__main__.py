"""Ratios against peers: ``python -m benchmarks [names ...]``.

python -m benchmarks                 all, rows appended to results/bench.jsonl
python -m benchmarks decode augment  some
python -m benchmarks step/compile    some cases of one
python -m benchmarks --quick         small and once each: does everything run and agree?
python -m benchmarks --docs          newest rows into the docs, nothing measured
"""

import argparse
import importlib
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import rows
from benchmarks.machine import machine, revision
from benchmarks.ratio import WrongResult, compare

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "bench.jsonl"
PAGES = {  # page: how the names of its rows begin
    "docs/kernels.md": ("kernels/", "gpu/"),
    "docs/benchmarks.md": ("",),
}
NAMES = (
    "decode",
    "prepare",
    "augment",
    "clips",
    "draws",
    "kernels",
    "ranks",
    "loader",
    "checkpoint",
    "heap",
    "scale",
    "step",
)


def run(asked: str, quick: bool) -> tuple[list[dict[str, object]], str]:
    """Rows of a benchmark, or of its cases that so begin, and why it was given up if it was."""
    name = asked.partition("/")[0]
    module = importlib.import_module(f"benchmarks.{name}")
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="rhyme-bench-") as room:
        for case in module.cases(Path(room), quick):
            if not case.name.startswith(asked):
                continue
            load = os.getloadavg()[0]
            try:
                row = compare(case, rounds=1 if quick else None)
            except WrongResult as error:
                return found, f"{case.name}: the sides disagree: {error}"
            facts = {
                "command": f"python -m benchmarks {asked}",
                "commit": revision(),
                "machine": {**machine(), "load": round(load, 2)},
                "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            found.append({**row.as_dict(), **facts})
            if not quick:  # at once: what is measured stays, whatever happens to the next
                rows.append(RESULTS, found[-1:])
            print(f"{row.name}: {row.ratio:.2f}", file=sys.stderr)
    return found, ""


def write_docs() -> None:
    """Put the newest rows into the pages, each row into the first page that takes it."""
    left = rows.newest(RESULTS)
    for name, beginnings in PAGES.items():
        page = ROOT / name
        taken = [row for row in left if str(row["name"]).startswith(beginnings)]
        left = [row for row in left if row not in taken]
        filled = rows.fill(page.read_text(encoding="utf-8"), rows.markdown(taken))
        page.write_text(filled, encoding="utf-8")


def main() -> int:
    """Run what is asked for; 1 where two sides disagree. A missed expectation is a finding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="small, once each, no row written")
    parser.add_argument("--docs", action="store_true", help="fill the tables of the docs")
    options = parser.parse_args()
    unknown = [name for name in options.names if name.partition("/")[0] not in NAMES]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    if options.docs:
        write_docs()
        return 0
    found: list[dict[str, object]] = []
    failed: list[str] = []
    for name in options.names or NAMES:
        made, problem = run(name, options.quick)
        found += made
        failed += [problem] if problem else []
    print(rows.text(found))
    for problem in failed:
        print(f"WRONG {problem}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
