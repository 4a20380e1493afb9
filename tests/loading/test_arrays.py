from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from rhyme.errors import CheckpointError, ConfigError, DataError
from rhyme.loading import ArraySource, Source, ZipSource


def arrays(n=10, **options) -> ArraySource:
    values = {
        "x": torch.arange(float(n))[:, None].expand(n, 3).clone(),
        "words": torch.arange(n)[:, None].expand(n, 5).clone(),
    }
    return ArraySource(values, **({"batch_size": 4, "seed": 1} | options))


def take(source, count):
    return list(itertools.islice(source.batches(), count))


def test_rows_stay_together_and_kinds_are_told():
    source = arrays(
        groups=[3, 3, 3, 9, 9, 9, 7, 7, 7, 7],
        targets={"label": torch.arange(10) * 10},
        valid={"words": torch.arange(10)[:, None] > torch.arange(5)[None]},
    )
    assert isinstance(source, Source)
    assert (source.items, source.groups, source.batches_per_epoch) == (10, 3, 2)
    for batch in take(source, 5):
        assert len(batch) == 4
        assert torch.equal(batch.views["x"].data[:, 0].long(), batch.index)
        assert torch.equal(batch.views["words"].data[:, 0], batch.index)
        assert torch.equal(batch.targets["label"], batch.index * 10)
        codes = torch.tensor([0, 0, 0, 2, 2, 2, 1, 1, 1, 1])
        assert torch.equal(batch.group, codes[batch.index])
        assert batch.views["words"].kind == "tokens"
        assert batch.views["x"].kind == "array"
        assert batch.views["words"].valid.shape == (4, 5)
        assert batch.views["x"].valid is None


def test_resume_is_exact_at_every_position():
    straight = [b.index.tolist() for b in take(arrays(), 7)]
    for stop in range(7):
        source = arrays()
        take(source, stop)
        resumed = arrays()
        resumed.load_state_dict(source.state_dict())
        assert [b.index.tolist() for b in take(resumed, 7 - stop)] == straight[stop:]


def test_other_arrays_are_refused():
    source = arrays()
    changed = arrays()
    changed.arrays["x"][3, 1] = -1.0
    changed = ArraySource(changed.arrays, batch_size=4, seed=1)
    with pytest.raises(CheckpointError, match="fingerprint"):
        changed.load_state_dict(source.state_dict())
    with pytest.raises(DataError, match="rows"):
        ArraySource({"x": torch.zeros(4), "y": torch.zeros(5)}, batch_size=2, seed=0)
    with pytest.raises(DataError):
        ArraySource({}, batch_size=2, seed=0)


def test_zip_pairs_sources_that_run_at_their_own_length():
    def zipped():
        return ZipSource({"a": arrays(8), "b": arrays(12, seed=5)})

    source = zipped()
    assert isinstance(source, Source)
    assert source.batches_per_epoch == 2
    straight = take(source, 6)
    first = straight[0]
    assert set(first.views) == {"a.x", "a.words", "b.x", "b.words"}
    assert torch.equal(first.views["b.x"].data[:, 0].long(), first.targets["b.index"])
    assert torch.equal(first.views["a.x"].data[:, 0].long(), first.index)
    other = torch.cat([b.targets["b.index"] for b in straight[:3]])
    assert sorted(other.tolist()) == list(range(12))
    for stop in range(6):
        part = zipped()
        take(part, stop)
        resumed = zipped()
        resumed.load_state_dict(part.state_dict())
        batch = take(resumed, 1)[0]
        assert torch.equal(batch.index, straight[stop].index)
        assert torch.equal(batch.targets["b.ids"], straight[stop].targets["b.ids"])


def test_zip_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match="batch size"):
        ZipSource({"a": arrays(), "b": arrays(batch_size=5)})
    state = ZipSource({"a": arrays()}).state_dict()
    with pytest.raises(CheckpointError, match="other sources"):
        ZipSource({"b": arrays()}).load_state_dict(state)
    whole = ZipSource({"a": arrays(), "b": arrays(seed=2)})
    assert whole.fingerprint != ZipSource({"a": arrays(9), "b": arrays()}).fingerprint


def test_weights_are_taken_and_saved():
    source = arrays()
    source.set_sampler_weights(torch.tensor(np.eye(10)[6]))
    state = source.state_dict()
    resumed = arrays()
    resumed.load_state_dict(state)
    assert take(resumed, 1)[0].index.tolist() == [6] * 4
