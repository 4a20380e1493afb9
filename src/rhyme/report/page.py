"""Report data -> one HTML page that needs nothing but itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rhyme.report.charts import line_chart
from rhyme.report.data import ReportData
from rhyme.report.frames import rhyme_views, strip_views
from rhyme.report.maps import map_views
from rhyme.report.pairs import pair_views
from rhyme.report.parts import part_table
from rhyme.report.pictures import QUALITIES, Quality
from rhyme.report.segments import segment_views
from rhyme.report.series import charts
from rhyme.report.story import (
    checkpoints,
    facts_table,
    lede,
    limits,
    missing,
    settings_table,
    test_items,
)
from rhyme.report.summary import compare, headline
from rhyme.report.table import dot_plot, table
from rhyme.report.text import block, clean, figure, moment
from rhyme.run import atomic_write

LIMIT_BYTES = 9_500_000
CARDS_OPEN = 6
CLASSES_SHOWN = 12
EVENTS_SHOWN = 12
EVENTS_KEPT = 500


def render(data: ReportData) -> str:
    """The page as text, at most about 10 MB: frames are stored smaller when there are many.

    Args:
        data: what to show. All text in it is escaped; control characters are made visible.

    Returns:
        A complete HTML document without scripts and without any external resource.
    """
    page = ""
    for quality in QUALITIES:
        page = _render(data, quality)
        if fits(page):
            return page
    return _render(data, None)


def fits(page: str) -> bool:
    """Whether a page is small enough to be mailed."""
    return len(page.encode()) <= LIMIT_BYTES


def write_report(data: ReportData, out: str | Path) -> Path:
    """Write the page; a reader sees the old one or the new one, never a part.

    Args:
        data: what to show.
        out: the file, usually ``RUN/report.html``.

    Returns:
        The path written.
    """
    target = Path(out)
    atomic_write(target, render(data))
    return target


def _render(data: ReportData, quality: Quality | None) -> str:
    lines = compare(data.results)
    top = headline(lines, data.headline)
    drawn = charts(data.metrics)
    events = list(data.events)[-EVENTS_KEPT:]
    return fill(
        "report.html.j2",
        data=data,
        title=data.title or _title(data),
        lede=lede(data, top),
        top=top,
        judged=test_items(top) if top is not None and top.items is not None else "",
        one_run=any(c.trained is not None and c.trained.n == 1 and c.gain for c in lines),
        rows=table(lines, top),
        checkpoints=checkpoints(lines),
        dots=mark(dot_plot(lines, top)),
        parts=part_table(lines),
        settings=settings_table(lines),
        rhymes=rhyme_views(data, quality),
        strips=strip_views(data.strips, quality),
        worst=strip_views(data.worst, quality),
        classes=list(data.classes)[:CLASSES_SHOWN],
        maps=map_views(data.maps),
        pairs=pair_views(data, quality),
        segments=segment_views(data, quality),
        charts=[(chart, mark(line_chart(chart))) for chart in drawn],
        missing=missing(data),
        facts=facts_table(data),
        config=block(data.config),
        limits=limits(data, lines, pictures=quality is not None),
        events=[_event(row) for row in events],
        open=CARDS_OPEN,
        events_shown=EVENTS_SHOWN,
        events_left=len(data.events) - len(events),
        lost={chart.title: sum(c.lost for c in chart.curves) for chart in drawn},
        figure=figure,
    )


def fill(template: str, **values: object) -> str:
    """A page of this room: a template filled with values, which are escaped and cleaned.

    Args:
        template: name of the template.
        values: what it names.
    """
    found = _environment().get_template(template)
    return found.render(style=mark(_read("report.css")), **values)


def _title(data: ReportData) -> str:
    return f"{data.name} on {data.facts.data}" if data.facts.data else data.name


def _event(row: Any) -> tuple[str, str, str]:
    hidden = ("time", "event", "kind", "versions")
    rest = ", ".join(f"{key} {value}" for key, value in row.items() if key not in hidden)
    name = row.get("event", row.get("kind"))
    return moment(row.get("time")), clean(name, 80), clean(rest, 600)


def _environment() -> Any:
    """Jinja with escaping on, whose every expression also passes through ``clean``."""
    from jinja2 import BaseLoader, Environment, StrictUndefined, TemplateNotFound
    from markupsafe import Markup

    class Room(BaseLoader):
        def get_source(self, environment: Environment, template: str) -> tuple[str, str, Any]:
            try:
                return _read(template), template, lambda: True
            except FileNotFoundError as error:
                raise TemplateNotFound(template) from error

    def finalize(value: object) -> object:
        return value if isinstance(value, Markup) else clean(value, 4000)

    environment = Environment(
        autoescape=True,
        finalize=finalize,
        loader=Room(),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["lines"] = lambda text: Markup("\n").join(str(text).split("\n"))
    return environment


def mark(text: str) -> Any:
    """Text that this room made itself and that is markup already."""
    from markupsafe import Markup

    return Markup(text)


def _read(name: str) -> str:
    from importlib.resources import files

    return files("rhyme.report").joinpath("templates", name).read_text(encoding="utf-8")
