"""A catalog from what the files and the labels say: items, quarantine, and what is told of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rhyme.catalog.candidates import Candidate, Found
from rhyme.catalog.catalog import Catalog
from rhyme.catalog.discover import ACCEPTED
from rhyme.catalog.examine import head_hash, quarantined, tool_versions
from rhyme.catalog.labels import Labels
from rhyme.catalog.schema import ASSET, LABEL, OFFSET, STORED, VERSION, build_table, stable_id
from rhyme.catalog.shard_labels import REMEDY
from rhyme.errors import DataError


def assemble(
    root: Path,
    found: Found,
    results: list[dict[str, Any]],
    labels: Labels,
    *,
    segment: float | None,
    settings: dict[str, object],
    extra: dict[str, object],
) -> Catalog:
    """The catalog of a folder.

    Args:
        root: the folder.
        found: its files.
        results: what is known of each: facts, or why it is refused.
        labels: by path.
        segment: seconds of an item; None never cuts.
        settings: how the folder was read.
        extra: what the catalog says of itself besides.

    Raises:
        DataError: no file can be used.
    """
    rows: list[dict[str, object]] = []
    unread = [*found.unreadable, *((path, why, REMEDY) for path, why in labels.bad.items())]
    bad = [
        quarantined(
            path,
            {"reason": why, "remedy": remedy, "versions": tool_versions(), "sha256": ""},
        )
        for path, why, remedy in unread
    ]
    for written, where in labels.lost.items():
        # Only in "auto" and by official lists are files named that need not be there.
        bad.append(
            quarantined(
                written,
                {
                    "reason": f"FileMissing: named {where}, not there",
                    "remedy": "add the file, or delete the line",
                    "versions": tool_versions(),
                    "sha256": head_hash(root / written),
                },
            )
        )
    for candidate, result in zip(found.candidates, results, strict=True):
        if "refused" in result:
            bad.append(quarantined(candidate.path, result["refused"]))
        else:
            rows += _rows(candidate, result["facts"], labels, segment, found.source(candidate))
    if not rows:
        raise _nothing(root, found, bad)
    facts = zip(found.candidates, (result.get("facts", {}) for result in results), strict=True)
    meta = {
        "version": VERSION,
        "root": str(root.absolute()),
        "settings": settings,
        "label_column": labels.main,
        "quarantine": bad,
        "ignored": found.ignored,
        "animations": [candidate.path for candidate, fact in facts if fact.get("animated")],
        **extra,
    }
    return Catalog(build_table(rows, labels.names, labels.asset_names, meta), root=root)


def _rows(
    candidate: Candidate,
    facts: dict[str, Any],
    labels: Labels,
    segment: float | None,
    source: str,
) -> list[dict[str, object]]:
    """The items of one file; their group is what a list says, else ``source``."""
    path = candidate.path
    kind = facts["kind"]
    duration, fps = float(facts["duration"]), float(facts["fps"])
    # At least sixteen frames an item, so that frames seconds apart are not torn asunder.
    length = max(segment, 16 * float(facts["spacing"])) if segment and kind == "frames" else segment
    values = labels.values.get(path, {})
    shared: dict[str, object] = {
        "path": path,
        "kind": kind,
        "fps": fps,
        "width": int(facts["width"]),
        "height": int(facts["height"]),
        "audio": bool(facts["sound"]),
        "group": labels.groups.get(path, source),
        "split": labels.splits.get(path),
        "status": "partial" if facts["partial"] else "ok",
        "bytes": candidate.size,
        "mtime_ns": candidate.mtime_ns,
        "spacing": float(facts["spacing"]) if kind == "frames" else None,
        "files": list(candidate.files) or None,
        OFFSET: None if candidate.member is None else candidate.member.offset,
        STORED: None if candidate.member is None else candidate.member.stored,
        **{LABEL + name: values.get(name) for name in labels.names},
        **{ASSET + name: value for name, value in labels.assets.get(path, {}).items()},
    }
    total = facts["frames"] if facts["frames"] is not None else max(1, round(duration * fps))
    cuts = segments(duration, length)
    edges = [round(total * start / duration) if duration > 0 else 0 for start, _ in cuts]
    edges.append(int(total))
    return [
        {
            **shared,
            "id": stable_id(path, start),
            "start": start,
            "stop": stop,
            "frames": edges[i + 1] - edges[i],
        }
        for i, (start, stop) in enumerate(cuts)
    ]


def segments(duration: float, length: float | None) -> list[tuple[float, float]]:
    """Cut a file into pieces.

    Args:
        duration: seconds.
        length: seconds a piece; None never cuts.

    Returns:
        ``(start, stop)`` in seconds; a last piece below half the length joins the one before.
    """
    if length is None or duration < 1.5 * length:
        return [(0.0, duration)]
    whole = int(duration // length)
    count = whole + (duration - whole * length >= length / 2)
    starts = [i * length for i in range(count)]
    return list(zip(starts, [*starts[1:], duration], strict=True))


def _nothing(root: Path, found: Found, bad: list[dict[str, str]]) -> DataError:
    shown = "; ".join(f"{row['path']}: {row['reason']}" for row in bad[:3])
    if bad:
        cause = f"none of {len(bad)} media files can be used: {shown}"
    elif found.ignored:
        cause = f"no file of those asked for; there are others: {found.ignored}"
    else:
        cause = f"no media among {found.seen} files"
    return DataError(
        cause + ("; ..." if len(bad) > 3 else ""),
        file=root,
        stage="scan",
        remedy=f"accepted: {ACCEPTED}",
    )
