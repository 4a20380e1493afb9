"""What a run wrote down, for tests."""

from typing import Any

from rhyme.run import RunFolder, read_jsonl


def events(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    """Events of a kind, in order."""
    return [event for event in read_jsonl(run.events) if event["event"] == kind]


def rows(run: RunFolder) -> list[dict[str, Any]]:
    """Logged steps, in order."""
    return [row for row in read_jsonl(run.metrics) if "loss" in row]
