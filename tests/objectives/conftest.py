from __future__ import annotations

import sys
from pathlib import Path

here = Path(__file__).parent
for folder in (here, here.parent / "ranks"):  # `from oracle import`, `from pool import`
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
