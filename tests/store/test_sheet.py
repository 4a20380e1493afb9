"""Contact sheets: readable pictures whatever the names and files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from rhyme.errors import ConfigError
from rhyme.store import contact_sheet, open_store


@pytest.fixture(scope="module")
def hits(written):
    store = open_store(written)
    return store.search(np.array(store.vectors[0]), k=7)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def field(path, place, columns, width):
    """Pixels of one picture of a sheet."""
    x, y = 10 + place % columns * (width + 10), 10 + place // columns * (width * 3 // 4 + 50)
    return pixels(path)[y : y + width * 3 // 4, x : x + width]


def test_query_and_hits_in_order(hits, tmp_path):
    out = contact_sheet(hits, tmp_path / "s.png", query=(hits[3].path, hits[3].time), columns=4)
    assert pixels(out).shape == (10 + 2 * (168 + 50), 10 + 4 * 234, 3)
    query, fourth = field(out, 0, 4, 224), field(out, 4, 4, 224)
    inside = (slice(4, -4), slice(40, -40))  # without the query's frame
    assert (query[inside] == fourth[inside]).all()
    assert not (query[inside] == field(out, 1, 4, 224)[inside]).all()
    assert field(out, 1, 4, 224).std() > 5


def test_the_texts_are_there(hits, tmp_path):
    def ink(name, hit):
        path = contact_sheet([hit], tmp_path / name)
        return pixels(path)[10 + 168 :].mean(axis=2)

    plain = ink("a.png", hits[0])
    assert (plain < 128).sum() > 100
    assert (ink("b.png", replace(hits[0], score=0.123)) != plain).any()
    assert (ink("c.png", replace(hits[0], rank=2)) != plain).any()


def test_odd_names_and_lost_files_do_not_stop_it(hits, tmp_path):
    odd = [
        replace(hits[0], path=str(tmp_path / "gone\n\x1b[31m.mp4")),
        replace(hits[1], path=str(tmp_path / ("long" * 60 + ".mp4"))),
        replace(hits[2], path=str(tmp_path / "日本語‮.mp4")),
        replace(hits[3], time=99.0),
    ]
    out = contact_sheet(odd, tmp_path / "s.png", query=(tmp_path / "gone.mp4", None))
    for place in range(5):
        picture = field(out, place, 5, 224)
        assert (picture < 128).any()  # the reason is written in the empty field


def test_refusals(hits, tmp_path):
    with pytest.raises(ConfigError, match="nothing"):
        contact_sheet([], tmp_path / "s.png")
    with pytest.raises(ConfigError, match="png"):
        contact_sheet(hits, tmp_path / "s.pdf")
    with pytest.raises(ConfigError, match="columns"):
        contact_sheet(hits, tmp_path / "s.png", columns=0)
    assert list(tmp_path.iterdir()) == []
