from __future__ import annotations

import json
import pickle
import struct
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rhyme.errors import DataError, LimitExceeded, NotMedia, RhymeError, UnsupportedMedia
from rhyme.media import AudioInfo, FrameReader, Limits, MediaInfo, PreparedFrames
from rhyme.media.shard import FOOTER, MAGIC, RECORD, Shard
from rhyme.media.shard_writer import ShardWriter
from rhyme.media.still import decode_still, encode_still, still_size

INFO = MediaInfo(
    kind="video", container="mov", duration=2.0, fps=5.0, frames=10, width=640, height=360,
    codec="h264", audio=AudioInfo(rate=8000, channels=1, codec="aac"), usable=((0.0, 2.0),),
)  # fmt: skip
ROWS, COLUMNS = 36, 64


def level(entry: int, k: int) -> int:
    return 20 + 100 * entry + 8 * k


@pytest.fixture(params=["jpeg", "webp"])
def shard(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two entries of ten flat frames; frame 3 of the second was damaged in its source."""
    path = tmp_path / "shard-00000.frames"
    with ShardWriter(path) as writer:
        for entry, info in enumerate((INFO, replace(INFO, audio=None))):
            for k in range(10):
                pixels = np.full((ROWS, COLUMNS, 3), level(entry, k), np.uint8)
                picture = encode_still(pixels, request.param, 90)
                writer.add(picture, k / 5, damaged=entry == 1 and k == 3)
            facts = {"info": asdict(info), "number": entry}
            writer.end_entry(facts, rows=ROWS, columns=COLUMNS, form=request.param)
        writer.finish()
    return path


def test_frames_come_back_by_time(shard: Path) -> None:
    for entry in (0, 1):
        with PreparedFrames(shard, entry) as reader:
            assert isinstance(reader, FrameReader)
            pixels, shown = reader.read([0.99, 0.0, -1.0, 99.0, 0.4, 0.4])
            assert shown.tolist() == [0.8, 0.0, 0.0, 1.8, 0.4, 0.4]
            assert pixels.shape == (6, 3, ROWS, COLUMNS)
            wanted = [level(entry, k) for k in (4, 0, 0, 9, 2, 2)]
            assert np.abs(pixels.float().mean(dim=(1, 2, 3)).numpy() - wanted).max() < 2
            assert reader.decoded_frames == 4
            assert reader.stored == (ROWS, COLUMNS)
            assert (reader.info.width, reader.info.height) == (640, 360)
            assert reader.frames_at([]).shape == (0, 3, ROWS, COLUMNS)


def test_info_and_damage_of_the_source_are_kept(shard: Path) -> None:
    assert PreparedFrames(shard, 0).info == INFO
    reader = pickle.loads(pickle.dumps(PreparedFrames(shard, 1)))
    reader.read([0.0, 0.6, 0.6])
    reader.read([0.6])
    assert reader.corrupt == 1


def test_sound_is_refused_where_there_was_some(shard: Path) -> None:
    assert PreparedFrames(shard, 1).audio(0, 1, 8000) is None
    with pytest.raises(UnsupportedMedia, match="no sound") as caught:
        PreparedFrames(shard, 0, name="a.mp4").audio(0, 1, 8000)
    assert "original files" in str(caught.value)


def test_a_missing_or_changed_shard_is_named_with_a_remedy(shard: Path) -> None:
    size = shard.stat().st_size
    PreparedFrames(shard, 0, size=size).read([0.0])
    for reader in (PreparedFrames(shard, 0, size=size + 1), PreparedFrames(shard, 2)):
        with pytest.raises(DataError) as caught:
            reader.read([0.0])
        assert str(shard) in str(caught.value)
        assert "rhyme prepare" in str(caught.value)
    with shard.open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="says"):
        PreparedFrames(shard, 0, size=size).read([0.0])
    shard.unlink()
    with pytest.raises(DataError, match="missing"):
        PreparedFrames(shard, 0).read([0.0])


def test_cuts_are_refused(shard: Path) -> None:
    whole = shard.read_bytes()
    for keep in (0, 10, 40, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:keep])
        with pytest.raises(DataError):
            Shard(shard)
    shard.write_bytes(b"\0" * len(whole))
    with pytest.raises(DataError):
        Shard(shard)


def test_flipped_bytes_raise_typed_errors_only(shard: Path) -> None:
    whole = shard.read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(0, len(whole), 120):
        damaged = bytearray(whole)
        damaged[place] ^= int(random.integers(1, 256))
        shard.write_bytes(damaged)
        for entry in (0, 1):
            try:
                reader = PreparedFrames(shard, entry)
                pixels, shown = reader.read(np.arange(10) / 5)
                assert pixels.shape[0] == len(shown) == 10
                _ = reader.info
            except RhymeError:
                pass


def forged(path: Path, field: str, value: int) -> None:
    """Change one number of the first record."""
    data = bytearray(path.read_bytes())
    index = FOOTER.unpack_from(data, len(data) - FOOTER.size)[0]
    records = np.frombuffer(data, RECORD, 2, index)
    records[field][0] = value
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [("first", 2**63), ("count", 2**40), ("count", 0), ("rows", 0), ("form", 9),
     ("facts", 2**62), ("facts_bytes", 2**32 - 1)],
)  # fmt: skip
def test_a_forged_record_is_refused(shard: Path, field: str, value: int) -> None:
    forged(shard, field, value)
    reader = PreparedFrames(shard, 0)
    with pytest.raises(DataError):
        _ = reader.info if field.startswith("facts") else reader.read([0.0])


def test_a_forged_size_is_refused_before_memory_is_taken(shard: Path) -> None:
    forged(shard, "rows", 2**31)
    with pytest.raises(LimitExceeded):
        PreparedFrames(shard, 0).read([0.0])
    forged(shard, "rows", 8000)
    with pytest.raises(NotMedia, match="header says"):
        PreparedFrames(shard, 0).read([0.0])
    with pytest.raises(LimitExceeded, match="request"):
        PreparedFrames(shard, 0, limits=Limits(max_request_bytes=1000)).read([0.0])


def test_forged_frame_tables_read_nothing_outside_of_the_pictures(shard: Path) -> None:
    whole = shard.read_bytes()
    index, entries, frames, _, _ = FOOTER.unpack_from(whole, len(whole) - FOOTER.size)
    times = index + entries * RECORD.itemsize
    offsets = times + 8 * frames
    lengths = offsets + 8 * frames
    for place, change in (
        (times, struct.pack("<d", float("nan"))),
        (times + 8, struct.pack("<d", -1.0)),
        (offsets, struct.pack("<Q", 2**64 - 5)),
        (offsets, struct.pack("<Q", index + 1)),
        (offsets, struct.pack("<Q", 0)),
        (lengths, struct.pack("<I", 2**32 - 1)),
    ):
        shard.write_bytes(whole[:place] + change + whole[place + len(change) :])
        with pytest.raises(DataError, match="frame table"):
            PreparedFrames(shard, 0).read([0.0])


@pytest.mark.parametrize(
    "facts",
    [{}, {"info": 3}, {"info": {"kind": "video"}}, {"info": {**asdict(INFO), "width": "wide"}},
     {"info": {**asdict(INFO), "kind": "playlist"}}, {"info": {**asdict(INFO), "audio": [1]}},
     {"info": {**asdict(INFO), "usable": 5}}],
)  # fmt: skip
def test_facts_of_the_wrong_type_are_refused(tmp_path: Path, facts: dict[str, object]) -> None:
    path = tmp_path / "shard-00000.frames"
    with ShardWriter(path) as writer:
        writer.add(encode_still(np.zeros((8, 8, 3), np.uint8), "jpeg", 90), 0.0)
        writer.end_entry(json.loads(json.dumps(facts)), rows=8, columns=8, form="jpeg")
        writer.finish()
    with pytest.raises(DataError, match="facts"):
        _ = PreparedFrames(path, 0).info


def test_nothing_stands_under_the_name_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.frames"
    with ShardWriter(path) as writer:
        writer.add(b"half a picture", 0.0)
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_other_kinds_are_refused() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    plain = encode_still(pixels, "jpeg", 90)
    assert still_size(plain, "jpeg") == (30, 40)
    back = np.empty_like(pixels)
    decode_still(plain, "jpeg", back)
    assert np.abs(back.astype(int).mean() - pixels.mean()) < 3
    import io

    for form, mode, options in (
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("PNG", "RGB", {}),
    ):
        out = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(out, form, **options)
        with pytest.raises(ValueError, match="header"):
            decode_still(out.getvalue(), "jpeg", back)
    # A comment that quotes a small header does not hide a large one behind it.
    frame = plain.index(b"\xff\xc0")
    quoted = b"\xff\xfe\x00\x13" + plain[frame : frame + 17]
    large = bytearray(plain[:2] + quoted + plain[2:])
    at = large.index(b"\xff\xc0", 2 + len(quoted))
    large[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    assert still_size(bytes(large), "jpeg") == (65535, 65535)


def test_the_first_bytes_are_no_media(shard: Path) -> None:
    from rhyme.media import identify

    assert shard.read_bytes().startswith(MAGIC)
    assert identify(shard.read_bytes()[:4096]) is None
