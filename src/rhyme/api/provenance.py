"""Where a figure comes from: the command as typed, the revision of the code."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path


def command_line() -> str:
    """The command as typed, without the path of the program."""
    ours = sys.argv[0].endswith(("rhyme", "rhyme/__main__.py"))
    return shlex.join(["rhyme", *sys.argv[1:]]) if ours else "python"


def commit() -> str:
    """Revision of the code: of the checkout that rhyme runs from, empty for an installed package.

    ``RHYME_COMMIT`` tells it where a copy of a checkout runs without its history.
    """
    told = os.environ.get("RHYME_COMMIT", "")
    if told:
        return told
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
