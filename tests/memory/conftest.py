from __future__ import annotations

import sys
from pathlib import Path

ranks = str(Path(__file__).parents[1] / "ranks")
if ranks not in sys.path:
    sys.path.insert(0, ranks)  # `from pool import run_on_ranks`
