import pytest

from support.tiny_systems import Build, build_tiny


@pytest.fixture
def build() -> Build:
    """Builds a tiny system by its id, with options."""
    return build_tiny
