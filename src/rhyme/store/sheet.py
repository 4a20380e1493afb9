"""A contact sheet: the query and what was found, with file, time and score, as one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rhyme.errors import ConfigError, RhymeError, printable
from rhyme.media import R2V2_SPACING
from rhyme.run import atomic_write
from rhyme.store.query import moment_of, open_query, readable_time
from rhyme.store.search import Hit, Store

__all__ = ["contact_sheet"]

_PAD, _LINE = 10, 17
_PAPER, _INK, _FAINT, _FRAME = "#ffffff", "#1b1b1b", "#5a5a5a", "#c2410c"


def contact_sheet(
    hits: Sequence[Hit],
    out: str | Path,
    *,
    query: tuple[str | Path, float | None] | None = None,
    store: Store | None = None,
    columns: int = 5,
    width: int = 224,
) -> Path:
    """Draw the query and the hits on a sheet.

    A moment whose file cannot be read any more is drawn as an empty field with the reason: a sheet
    never fails for a missing file.

    Args:
        hits: what was found, best first.
        out: the PNG to write, whole or not at all.
        query: file and seconds (None for the middle) to draw first.
        store: what was searched. It knows order and spacing of the pictures in its frame folders,
            so that of such a query the frame is drawn that was searched for.
        columns: pictures in a row.
        width: of a picture, in pixels; its height is three quarters of that.

    Returns:
        The path of the sheet.

    Raises:
        ConfigError: nothing to draw, another ending than ``.png``, or sizes out of range.
    """
    target = Path(out)
    if target.suffix.lower() != ".png":
        raise ConfigError("a contact sheet is a .png file", file=target, stage="contact sheet")
    if not 1 <= columns <= 50 or not 48 <= width <= 1024:
        raise ConfigError(
            "a sheet has 1 to 50 columns of 48 to 1024 pixels",
            stage="contact sheet",
            value=(columns, width),
        )
    cells: list[tuple[Image.Image | str, list[str], bool]] = []
    if query is not None:
        path = Path(query[0])
        known = ((), R2V2_SPACING) if store is None else store.frame_folder(path)
        picture, time = _picture(path, query[1], *known)
        cells.append((picture, [path.name, f"query, {time:.2f} s"], True))
    for hit in hits:
        picture, _ = _picture(Path(hit.path), hit.time, hit.files, hit.spacing)
        text = f"{hit.rank}.  {readable_time(hit.time)} s   cosine {hit.score:.3f}"
        cells.append((picture, [Path(hit.path).name, text], False))
    if not cells:
        raise ConfigError("nothing was found, so there is nothing to draw", stage="contact sheet")
    columns = min(columns, len(cells))
    height = width * 3 // 4
    step_x, step_y = width + _PAD, height + 2 * _LINE + _PAD + 6
    lines = -(-len(cells) // columns)
    sheet = Image.new("RGB", (_PAD + columns * step_x, _PAD + lines * step_y), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for place, (picture, text, framed) in enumerate(cells):
        x, y = _PAD + place % columns * step_x, _PAD + place // columns * step_y
        _paste(sheet, draw, picture, (x, y, width, height), font)
        if framed:
            draw.rectangle((x - 3, y - 3, x + width + 2, y + height + 2), outline=_FRAME, width=3)
        for line, words in enumerate(text):
            fitted = _fit(words, width, font, draw)
            at = (x, y + height + 4 + line * _LINE)
            draw.text(at, fitted, fill=_FAINT if line else _INK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    atomic_write(target, buffer.getvalue())
    return target


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _picture(
    path: Path, time: float | None, files: Sequence[str], spacing: float
) -> tuple[Image.Image | str, float]:
    """The frame, or why there is none; and its time."""
    try:
        reader = open_query(path, files, spacing)
        try:
            when = moment_of(reader, time, path)
            frames, _ = reader.read([when])
        finally:
            reader.close()
    except (RhymeError, OSError) as error:
        return getattr(error, "cause", None) or str(error), time or 0.0
    return Image.fromarray(frames[0].permute(1, 2, 0).contiguous().numpy()), when


def _paste(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    picture: Image.Image | str,
    box: tuple[int, int, int, int],
    font: _Font,
) -> None:
    """Put a picture into the middle of its field, at its own aspect; a text instead of none."""
    x, y, width, height = box
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill="#eeeeee")
    if isinstance(picture, str):
        words = _fit(picture, width - 12, font, draw)
        draw.text((x + 6, y + height // 2 - 8), words, fill=_FAINT, font=font)
        return
    scale = min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(small, (x + (width - size[0]) // 2, y + (height - size[1]) // 2))


def _fit(text: str, width: int, font: _Font, draw: ImageDraw.ImageDraw) -> str:
    """The text in one printable line, its middle left out where it is too wide."""
    # the font has the letters of Latin-1; others would all look like the same empty box
    safe = printable(text).encode("latin-1", "backslashreplace").decode("latin-1")
    if draw.textlength(safe, font=font) <= width:
        return safe
    for keep in range(len(safe) - 1, 1, -1):
        tail = keep // 2
        shown = safe[: keep - tail] + "..." + safe[len(safe) - tail :]
        if draw.textlength(shown, font=font) <= width:
            return shown
    return "..."
