"""What the pages of the docs show: their blocks of shell and Python, in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("bash", "sh", "console")

NOT_EXECUTED = {
    ("docs/encoders", "from rhyme.encoders import open_shelf"): "needs weights and two extras; "
    "tests/encoders/test_shelf.py opens such",
    ("docs/training", "def phases(self):"): "a method, shown without its class",
    ("docs/training", "from resume.harness import"): "the harness of tests/resume, used there",
}
"""Blocks of Python that are not run, by page and first line, and why."""

GIVEN = {
    "docs/encoders": "import torch\npixels = torch.rand(8, 3, 64, 64)\n"
    "clips = torch.rand(1, 16, 3, 112, 112)\n",
    "docs/kernels": "import torch\nfeatures = torch.rand(200, 8)\n"
    "first, *previous = torch.nn.functional.normalize(torch.rand(4, 12, 12, 8), dim=-1)\n"
    "query = first.clone()\ncontext_labels = torch.rand(4, 12, 12, 3)\n",
    "docs/searching": "import numpy as np\nvector = np.load('my.store/g000001/vectors.npy')[0]\n",
    "docs/systems/lsfd": "from rhyme.catalog import open_data\ncatalog = open_data('long_world')\n",
    "docs/training": "from rhyme.api import resolve_recipe\n"
    "from rhyme.api.fit import build_system\n"
    "from rhyme.catalog import open_data\nfrom rhyme.loading import CatalogSource\n"
    "from rhyme.views import ViewPlan\n"
    "system = build_system(resolve_recipe('moco'))\nplan = system.plans()['train']\n"
    "assert isinstance(plan, ViewPlan)\n"
    "source = CatalogSource(open_data('my_videos'), plan, batch_size=8, seed=0)\n",
}
"""What the Python of a page takes for granted."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word after the fence.
        line: its first line in the page, from 1.
        text: what stands in it.
    """

    language: str
    line: int
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines as commands: continued lines joined, remarks and prompts left out."""
        joined = self.text.replace("\\\n", " ").splitlines()
        bare = (re.sub(r"(^|\s)#.*$", "", line).removeprefix("$ ").strip() for line in joined)
        return [re.sub(r"\s+", " ", line) for line in bare if line]


def name_of(page: Path) -> str:
    """A page's name from the root on, without its ending: ``docs/systems/moco``."""
    return str(page.relative_to(ROOT).with_suffix(""))


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of these languages, in the order of the page."""
    text = page.read_text()
    return [
        Block(match[1], text.count("\n", 0, match.start(2)) + 1, match[2])
        for match in re.finditer(r"^```(\w+)[^\n]*\n(.*?)^```$", text, re.S | re.M)
        if match[1] in languages
    ]


def commands(page: Path) -> list[str]:
    """Every command of a page's shell blocks, in order."""
    return [command for block in blocks(page, *SHELL) for command in block.commands]


def python(page: Path) -> list[Block]:
    """The blocks of Python that are run, in order."""
    excused = tuple(first for name, first in NOT_EXECUTED if name == name_of(page))
    found = blocks(page, "python")
    return [b for b in found if not (excused and b.text.startswith(excused))]
