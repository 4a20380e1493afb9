"""The model card of an encoder package, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml

from rhyme.report.data import ReportData
from rhyme.report.story import facts_table, limits, settings_table, trained_on, verdict
from rhyme.report.summary import compare, headline
from rhyme.report.table import Line, Table, table
from rhyme.report.text import clean

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$&])")


def model_card(data: ReportData) -> str:
    """A model card: what the encoder is, how it measures, how it was made, where it fails.

    The head is YAML as model hubs read it. All text from outside is escaped, so that a file name
    or label can neither break a table nor bring in a link.

    Args:
        data: as for the report; rhymes and strips are not used.
    """
    lines = compare(data.results)
    head = {
        "library_name": "rhyme",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["self-supervised-learning", "contrastive-learning", clean(data.system, 80)],
    }
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {_text(data.title or data.name)}",
        _text(f"{trained_on(data)} {verdict(data, headline(lines, data.headline))}"),
        "## Use\n\nThe folder holds the weights (`safetensors`), the configuration of the encoder "
        "and its inference plan (size, normalisation, clip rule). It turns a frame or clip into a "
        "feature vector, for search, neighbours and probes; it names nothing by itself.\n\n"
        "```sh\nrhyme embed THIS_FOLDER --data VIDEOS --store STORE\n```",
        "## Evaluation\n\n" + _evaluation(table(lines), settings_table(lines)),
        "## How it was made\n\n" + _facts(facts_table(data)),
        "## Limits\n\n" + _limits(limits(data, lines)),
    ]
    return "\n\n".join(sections) + "\n"


def _text(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", clean(text, 4000))


def _evaluation(rows: Table, settings: Sequence[tuple[str, str]]) -> str:
    if not rows.lines:
        return "Not evaluated yet: `rhyme evaluate RUN`."
    names = ["Protocol", "Metric", "Trained", "Untrained", *rows.others]
    names += ["Chance"] * rows.chance + ["Difference"] + ["Items"] * rows.items
    cells = [_cells(line, rows) for line in rows.lines]
    lines = [_row(names), _row(["---"] * 2 + ["---:"] * (len(names) - 2), escape=False)]
    lines += [_row(cell) for cell in cells]
    text = "\n".join(lines)
    text += (
        "\n\nMean ± standard deviation; *untrained* is the same architecture with fresh weights."
    )
    told = [f"- {_text(name)}: {_text(values)}" for name, values in settings]
    return text + ("\n\nSettings:\n\n" + "\n".join(told) if told else "")


def _cells(line: Line, rows: Table) -> list[str]:
    values = [
        f"{value} ({seeds})" if seeds else value
        for value, seeds in zip((line.trained, line.untrained), line.seeds, strict=True)
    ]
    cells = [line.protocol, line.metric, *values, *line.others]
    cells += [line.chance] * rows.chance
    cells.append(f"{line.gain} ({line.how})" if line.how else line.gain)
    return cells + [line.items] * rows.items


def _row(cells: Sequence[str], *, escape: bool = True) -> str:
    return "| " + " | ".join(_text(c) if escape else c for c in cells) + " |"


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- **{name}**: {_text(value)}" for name, value in rows)


def _limits(said: Sequence[str]) -> str:
    own = (
        "The figures hold for the data named above and say little about footage unlike it. What "
        "that data shows seldom, the features know poorly."
    )
    return "\n".join(f"- {text}" for text in [own, *(_text(s) for s in said)])
