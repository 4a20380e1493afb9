"""What all tests share: where real data lies, what must not be skipped, one thread a process."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):  # its keywords hold the names of folders too
            item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(autouse=True)
def shared_runs_stay_as_they_are() -> Iterator[None]:
    """No test may leave results in a run that others look at: they would depend on their order."""
    yield
    module = sys.modules.get("support.tiny_runs")
    if module is not None:
        left = module.judged_shared_runs()
        assert not left, f"judge a copy of the run instead: {left}"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, or a skip that says how to give one."""
    folder = os.environ.get("RHYME_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real data: set RHYME_DATA to the folder that holds it")
    return Path(folder)


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """The system's ffmpeg; under RHYME_REQUIRE_FFMPEG=1 its absence is a failure."""
    found = shutil.which("ffmpeg")
    if found is None:
        message = "no system ffmpeg: apt-get install ffmpeg"
        if os.environ.get("RHYME_REQUIRE_FFMPEG") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return found
