"""The sentences of the page: what was done, what it gave, what is missing, what it cannot show."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from rhyme.evaluation.splits import SPLIT_DRAWN, SPLIT_GIVEN
from rhyme.report.data import ReportData
from rhyme.report.rows import mapping, number
from rhyme.report.series import drawable
from rhyme.report.summary import Comparison
from rhyme.report.table import spread_text
from rhyme.report.text import clean, count, duration, figure


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A section without content: what is missing, and what helps, a command where one does."""

    what: str
    command: str = ""
    remedy: str = ""


def trained_on(data: ReportData) -> str:
    """One sentence: what was trained on what, for how long."""
    facts = data.facts
    size = [
        count(facts.items, "item") if facts.items is not None else "",
        count(facts.groups, "group") if facts.groups is not None else "",
    ]
    of = " of ".join(part for part in size if part)
    subject = f"{data.name} encoder"
    if data.kind == "collection":
        where = facts.data or "a collection"
        return f"{where}{f' ({of})' if of else ''}, seen by the {subject}."
    where = f" on {facts.data}" if facts.data else ""
    text = f"{subject} trained{where}{f' ({of})' if of else ''}"
    if facts.steps is not None:
        text += f", {count(facts.steps, 'step')}"
    if facts.seconds is not None:
        text += f" in {duration(facts.seconds)}"
    if facts.device:
        text += f" on {facts.device}"
    return text + (f", seed {facts.seed}." if facts.seed is not None else ".")


def verdict(data: ReportData, top: Comparison | None) -> str:
    """One sentence: the headline figure against the untrained encoder."""
    if top is None or top.trained is None:
        return "" if data.kind == "collection" else "It has not been evaluated yet."
    text = f"{top.title}: {spread_text(top.trained)}"
    if top.untrained is None or top.gain is None:
        return f"{text}; the untrained encoder was not measured beside it."
    text += f", against {spread_text(top.untrained)} for the same encoder untrained"
    if top.better is None:
        return f"{text}: no difference."
    sd = top.gain.sd
    if top.clear is False:
        few = ""
        if top.error is not None and (sd is None or abs(top.gain.mean) > sd):
            few = f", with a standard error of {figure(top.error)} from {test_items(top)} alone"
        return f"{text}, which is no clear difference ({spread_text(top.gain, sign=True)}{few})."
    by = f"{'a gain' if top.better else 'a loss'} of {figure(abs(top.gain.mean))}"
    if sd is None:
        return f"{text}, {by}; measured once each, it has no spread."
    return f"{text}, {by} ± {figure(sd)}."


def test_items(line: Comparison) -> str:
    """How many test items a figure rests on, of how many videos or groups where these are fewer."""
    text = count(line.items, "test item")
    if line.independent is not None and line.items is not None and line.independent < line.items:
        return f"{text} of {count(line.independent, line.counted)}"
    return text


def lede(data: ReportData, top: Comparison | None) -> str:
    """Both sentences that open the page."""
    return f"{trained_on(data)} {verdict(data, top)}".strip()


def missing(data: ReportData) -> dict[str, Gap]:
    """Sections of a run's page that have no content yet, by section id."""
    if data.kind == "collection":
        return {}
    run = shlex.quote(clean(data.run))
    gaps: dict[str, Gap] = {}
    finished = bool(data.results or data.facts.package_hash) or any(
        row.get("event") == "finished" for row in data.events
    )
    # There is no encoder to measure or to draw with before the training has ended.
    first = "" if finished else f"rhyme train --resume {run} && "
    if not data.results:
        what, judge = "Nothing has been measured with this encoder yet", f"rhyme evaluate {run}"
        if _nothing_held_out(data):
            what += ", and the run held no videos out: give some that it never saw"
            judge += " --data FOLDER"
        gaps["evaluation"] = Gap(what=f"{what}.", command=f"{first}{judge}")
    if not data.rhymes:
        gaps["rhymes"] = Gap(
            what="No frame has been sent out and back yet; that needs the encoder.",
            command=f"{first}rhyme report {run}",
        )
    if not data.strips:
        gaps["retrieval"] = Gap(
            what="Nothing has been retrieved yet; that needs the encoder.",
            command=f"{first}rhyme report {run}",
        )
    for section, (why, remedy) in data.absent.items():
        gaps[section] = Gap(what=clean(why, 600), remedy=clean(remedy, 600))
    if not data.metrics:
        gaps["curves"] = Gap(
            what="The run has not logged a step yet.", command=f"rhyme train --resume {run}"
        )
    return gaps


def _nothing_held_out(data: ReportData) -> bool:
    """Whether all of a run's data was trained on."""
    told = [mapping(row.get("splits")) for row in data.events if row.get("event") == "data"]
    return any(splits.keys() - {"none"} == {"train"} for splits in told)


def facts_table(data: ReportData) -> list[tuple[str, str]]:
    """What is known of how the run was made, as (name, value)."""
    facts = data.facts
    rows: list[tuple[str, str | None]] = [
        ("System", f"{data.name} ({data.system})" if data.system_title else data.system),
        ("Data", facts.data),
        ("Data fingerprint", facts.data_fingerprint),
        ("Items", None if facts.items is None else count(facts.items)),
        ("Groups", None if facts.groups is None else count(facts.groups)),
        ("Steps", None if facts.steps is None else count(facts.steps)),
        ("Seed", None if facts.seed is None else str(facts.seed)),
        ("Time", None if facts.seconds is None else duration(facts.seconds)),
        ("Device", facts.device),
        ("Versions", ", ".join(f"{k} {v}" for k, v in sorted(facts.versions.items()))),
        ("Commit", facts.commit),
        ("Started from", facts.initial_weights),
        ("Command", facts.command),
        ("Encoder SHA-256", facts.package_hash),
    ]
    return [(name, clean(value, 2000)) for name, value in rows if value]


def checkpoints(lines: Sequence[Comparison]) -> str:
    """Which encoders of the run the trained figures are of, and of which they are left out."""
    names = dict.fromkeys(name for line in lines for name in line.encoders)
    said: list[str] = []
    if len(names) == 1:
        said.append(f"The trained figures are of {next(iter(names))}.")
    elif names:
        said.append(
            "The trained figures are of several encoders of the run; each line says of which."
        )
    left_out: dict[str, list[str]] = {}
    for line in lines:
        for name in line.replaced:
            left_out.setdefault(name, []).append(line.title)
    if left_out:
        listed = "; ".join(f"{name} ({_some(titles)})" for name, titles in left_out.items())
        said.append(f"What was measured again later is left out: {listed}.")
    return " ".join(said)


def settings_table(lines: Sequence[Comparison]) -> list[tuple[str, str]]:
    """All settings of each protocol and variant, as (title, settings)."""
    found: dict[tuple[str, str], str] = {}
    for line in lines:
        asked = {**line.settings, **_split(line)}
        text = ", ".join(f"{k} = {_value(v)}" for k, v in sorted(asked.items()))
        found_too = [
            f"{k} = {_found(v)}"
            for k, v in line.details.items()
            if isinstance(v, (bool, int, float, str)) and k != SPLIT_DRAWN
        ]
        text += f"; found: {', '.join(found_too)}" if found_too else ""
        name = f"{line.title}, {line.variant}" if line.variant else line.title
        if text:
            found[(name, text)] = text
    merged: dict[str, list[str]] = {}
    for (name, text), _ in found.items():
        merged.setdefault(text, []).append(name)
    return [("; ".join(names), clean(text, 3000)) for text, names in merged.items()]


def limits(data: ReportData, lines: Sequence[Comparison], *, pictures: bool = True) -> list[str]:
    """What the figures do not show, worked out from what is there.

    Args:
        data: the report's data.
        lines: lines of its evaluation table.
        pictures: whether the page holds the frames' pictures.
    """
    said = list(data.notes)
    seeds = {c.trained.n for c in lines if c.trained is not None}
    if seeds == {1}:
        said.append(
            "The trained values come from one training run measured once: how far another seed "
            "would land is not known, and no spread here tells."
        )
    said += _of_items(lines)
    left_out = sum(row.get("event") == "quarantined" for row in data.events)
    if left_out:
        said.append(f"{count(left_out, 'file')} could not be read and took no part; see Events.")
    alone = [c.title for c in lines if c.trained is not None and c.untrained is None]
    if alone:
        said.append(f"Measured without an untrained encoder beside it: {'; '.join(alone)}.")
    worse = [c.title for c in lines if c.better is False and c.clear is not False]
    if worse:
        said.append(f"The trained encoder is worse than an untrained one in: {_some(worse)}.")
    unclear = [c.title for c in lines if c.clear is False]
    if unclear:
        said.append(
            "Trained and untrained differ by no more than the spread of their difference, or than "
            "twice its standard error from the test items, in: "
            f"{_some(unclear)}."
        )
    lost = sum(c.lost for c in lines)
    if lost:
        said.append(f"{count(lost, 'measured value')} not finite, left out of the table.")
    broken = sum(
        1
        for row in data.metrics
        if (loss := number(row.get("loss"))) is not None and not drawable(loss)
    )
    if broken:
        said.append(f"The loss was not finite in {count(broken, 'logged step')}.")
    if data.rhymes and data.rhymes_measured is None:
        said.append(
            "The rhymes shown are examples; the share of them that came home is no measurement."
        )
    if any(h.score is not None for s in data.strips for h in s.hits):
        said.append("Scores are cosines of this encoder; they do not compare across encoders.")
    if not pictures:
        said.append("Pictures were left out: with them the page would exceed 10 MB.")
    return [clean(text, 1200) for text in said]


def _of_items(lines: Sequence[Comparison]) -> list[str]:
    """That spreads are not over test items, and how much one over them would be at least."""
    if not any(c.gain is not None for c in lines):
        return []
    text = (
        "Spreads are over training runs, folds and draws of fresh weights. None is over the test "
        "items: other videos would give other figures."
    )
    for line in lines:
        if line.metric == "top1" and line.error is not None and line.gain is not None:
            return [
                f"{text} {line.title}, a share of {test_items(line)}: the difference of "
                f"{figure(line.gain.mean, sign=True)} has a standard error of up to "
                f"{figure(line.error)} from that alone, if {line.counted}s are independent."
            ]
    return [text]


def _some(names: Sequence[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + rest


def _split(line: Comparison) -> dict[str, str]:
    """Where the split is from, for people: rows say ``given`` of one that was drawn too."""
    if line.settings.get("split") != SPLIT_GIVEN:
        return {}
    drawn = line.details.get(SPLIT_DRAWN)
    if drawn is None:  # a row of before that was told
        return {"split": "kept with the data: given, or drawn when they were read"}
    return {"split": f"drawn by rhyme: {drawn}"} if drawn else {}


def _found(value: bool | int | float | str) -> str:
    """Something found, rounded to four digits; settings stand as they were given."""
    whole = isinstance(value, float) and abs(value) < 10
    return f"{value:.4g}" if whole else _value(value)


def _value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return figure(value) if isinstance(value, float) and abs(value) >= 10 else clean(value, 200)
