"""Runs the cases, each on its own feet: a case that fails is told, and the next one begins."""

import argparse
import gc
import os
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import gpu, rows
from benchmarks.gpu.causes import CAUSES
from benchmarks.machine import machine, revision
from benchmarks.ratio import Case, compare

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "results" / "bench.jsonl"


def measured(case: Case, quick: bool, commit: str) -> dict[str, object]:
    """The row of a case."""
    load = os.getloadavg()[0]
    row = compare(case, rounds=1 if quick else None)
    return {
        **row.as_dict(),
        "note": "" if row.met else row.note or CAUSES.get(case.name, ""),
        "command": f"python -m benchmarks.gpu {case.name}",
        "commit": commit,
        "machine": {**machine(), "load": round(load, 2)},
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> int:
    """Run what is asked for; 1 where a case failed. A missed expectation is a finding."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=gpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="case", help="how its name begins")
    parser.add_argument("--quick", action="store_true", help="small, once each, no row written")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no case after this time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where rows are appended")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu: not measured on a GPU, there is none here", file=sys.stderr)
        return 0
    commit, began = revision(), time.monotonic()
    found: list[dict[str, object]] = []
    failed: list[str] = []
    print(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory(prefix="rhyme-bench-") as room:
        for case in gpu.cases(Path(room), options.quick, tuple(options.names)):
            taken = time.monotonic() - began
            if isinstance(case, Exception):
                failed.append("".join(traceback.format_exception(case, limit=-4)))
                print(f"[{taken:5.0f} s] FAILED {failed[-1]}", flush=True)
                continue
            if options.names and not case.name.startswith(tuple(options.names)):
                continue
            if taken > options.seconds:
                print(f"[{taken:5.0f} s] {case.name}: no time left", flush=True)
                continue
            try:
                row = measured(case, options.quick, commit)
            except Exception as error:
                failed.append(f"{case.name}: {type(error).__name__}: {str(error)[-600:]}")
                print(f"[{taken:5.0f} s] FAILED {failed[-1]}", flush=True)
                traceback.print_exc(limit=-3, file=sys.stdout)
            else:
                found.append(row)
                print(f"[{taken:5.0f} s] {' | '.join(rows.cells(row))}", flush=True)
                if not options.quick:
                    rows.append(options.out, [row])
            del case
            gc.collect()
            torch.cuda.empty_cache()
    print(rows.text(found), flush=True)
    for problem in failed:
        print(f"FAILED {problem.splitlines()[-1]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
