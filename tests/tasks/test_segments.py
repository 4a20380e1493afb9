"""Action segmentation: the computed cases, and the field's own counting written out slowly."""

from __future__ import annotations

import numpy as np
import pytest

from rhyme.errors import DataError
from rhyme.tasks import edit_score, match_segments, score_segmentation, segments

A, B, C = 0, 1, 2


def runs(*parts: tuple[int, int]) -> np.ndarray:
    return np.concatenate([np.full(length, label) for label, length in parts])


def slow_segments(labels, leave_out):
    found = []
    for i, label in enumerate(labels):
        if i == 0 or label != labels[i - 1]:
            found.append([label, i, i])
        found[-1][2] = i + 1
    return [(name, a, b) for name, a, b in found if name not in leave_out]


def slow_edit(p, y):
    """Levenshtein distance by its definition, a table of all prefixes."""
    table = np.zeros((len(p) + 1, len(y) + 1))
    table[:, 0], table[0] = np.arange(len(p) + 1), np.arange(len(y) + 1)
    for i in range(1, len(p) + 1):
        for j in range(1, len(y) + 1):
            table[i, j] = min(
                table[i - 1, j] + 1,
                table[i, j - 1] + 1,
                table[i - 1, j - 1] + (p[i - 1][0] != y[j - 1][0]),
            )
    longest = max(len(p), len(y))
    return 1 - table[-1, -1] / longest if longest else 1.0


def slow_counts(p, y, overlap):
    """Sets of frames instead of borders; the first of the best true segments, hit or not."""
    used, tp, fp = set(), 0, 0
    for label, a, b in p:
        best, place = 0.0, None
        for j, (name, c, d) in enumerate(y):
            mine, theirs = set(range(a, b)), set(range(c, d))
            if name == label and (share := len(mine & theirs) / (max(b, d) - min(a, c))) > best:
                best, place = share, j
        if place is not None and best >= overlap and place not in used:
            tp, used = tp + 1, used | {place}
        else:
            fp += 1
    return tp, fp, len(y) - len(used)


def test_identical_sequences_are_perfect() -> None:
    truth = runs((A, 30), (B, 20), (A, 50))
    found = score_segmentation([(truth, truth)])
    assert (found.accuracy, found.edit) == (1, 1)
    assert found.f1 == {10: 1, 25: 1, 50: 1}


def test_a_border_off_by_one_frame_costs_a_frame_only() -> None:
    found = score_segmentation([(runs((A, 51), (B, 49)), runs((A, 50), (B, 50)))])
    assert found.accuracy == 0.99
    assert (found.edit, found.f1[50]) == (1, 1)


def test_a_torn_segment_costs_edit_and_precision() -> None:
    found = score_segmentation([(runs((A, 40), (B, 5), (A, 5), (B, 50)), runs((A, 50), (B, 50)))])
    assert found.accuracy == 0.95
    assert found.edit == 0.5
    assert found.counts[10] == found.counts[50] == (2, 2, 0)
    assert found.f1[10] == found.f1[50] == pytest.approx(2 / 3)


def test_all_wrong_is_nothing() -> None:
    found = score_segmentation([(runs((C, 100)), runs((A, 50), (B, 50)))])
    assert (found.accuracy, found.edit) == (0, 0)
    assert set(found.f1.values()) == {0}


def test_a_prediction_without_segments_is_counted() -> None:
    found = score_segmentation([(runs((C, 100)), runs((A, 50), (B, 50)))], background=[C])
    assert found.counts[10] == (0, 0, 2)
    assert found.f1[10] == found.edit == 0
    both = score_segmentation([(runs((C, 9)), runs((C, 9)))], background=[C])
    assert (both.accuracy, both.edit, both.f1[10]) == (1, 1, 0)


def test_background_leaves_the_segments_and_not_the_frames() -> None:
    truth, predicted = runs((C, 50), (A, 50)), runs((B, 25), (C, 25), (A, 50))
    counted = score_segmentation([(predicted, truth)])
    without = score_segmentation([(predicted, truth)], background=[C])
    assert counted.accuracy == without.accuracy == 0.75
    assert without.counts[10] == (1, 1, 0)
    assert counted.counts[10] == (2, 1, 0)
    assert without.edit == 0.5


def test_the_second_best_segment_is_never_tried() -> None:
    # both predictions overlap the first true segment most; the second of them misses although
    # the last true segment would do at 5 %
    truth = segments(runs((A, 10), (B, 2), (A, 4)))
    predicted = segments(runs((A, 6), (B, 1), (A, 9)))
    predicted = type(predicted)(
        labels=predicted.labels[[0, 2]],
        starts=np.array([0, 5]),
        stops=np.array([6, 13]),
    )
    assert match_segments(predicted, truth, 0.05) == (1, 1, 2)


@pytest.mark.parametrize("seed", range(40))
def test_random_videos_agree_with_the_slow_count(seed) -> None:
    rng = np.random.default_rng(seed)

    def video() -> tuple[np.ndarray, np.ndarray]:
        lengths = rng.integers(1, 9, rng.integers(1, 9))
        truth = np.repeat(rng.integers(0, 4, len(lengths)), lengths)
        flips = rng.random(len(truth)) < 0.15
        return np.where(flips, rng.integers(0, 4, len(truth)), np.roll(truth, 1)), truth

    videos = [video() for _ in range(3)]
    for background in ((), (0,), (0, 3)):
        found = score_segmentation(videos, background=background, overlaps=(10, 25, 50, 75, 100))
        cut = [[slow_segments(x, background) for x in pair] for pair in videos]
        assert found.edit == pytest.approx(np.mean([slow_edit(p, y) for p, y in cut]))
        for overlap in (10, 25, 50, 75, 100):
            counts = np.sum([slow_counts(p, y, overlap / 100) for p, y in cut], axis=0)
            assert found.counts[overlap] == tuple(counts)
            precision = counts[0] / max(counts[0] + counts[1], 1)
            recall = counts[0] / max(counts[0] + counts[2], 1)
            harmonic = 2 * precision * recall / max(precision + recall, 1e-12)
            assert found.f1[overlap] == pytest.approx(harmonic)
    pairs = [(int((p == y).sum()), len(y)) for p, y in videos]
    assert found.accuracy == pytest.approx(sum(r for r, _ in pairs) / sum(n for _, n in pairs))


def test_edit_of_long_sequences_is_symmetric_and_bounded() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, 60), rng.integers(0, 5, 35)
    assert edit_score(one, other) == edit_score(other, one)
    assert 0 <= edit_score(one, other) <= 1 - 25 / 60
    assert edit_score(one, one[:0]) == 0


def test_frames_without_a_label_are_taken_out_of_both() -> None:
    truth = runs((A, 10), (-1, 5), (A, 10), (B, 5))
    predicted = runs((A, 10), (C, 5), (A, 10), (B, 5))
    found = score_segmentation([(predicted, truth)])
    assert (found.accuracy, found.frames) == (1, 25)
    assert found.counts[50] == (2, 0, 0)


def test_lengths_must_agree_and_something_must_be_labelled() -> None:
    with pytest.raises(DataError, match="another length"):
        score_segmentation([(runs((A, 4)), runs((A, 5)))])
    with pytest.raises(DataError, match="no video has a labelled frame"):
        score_segmentation([(runs((A, 4)), runs((-1, 4)))])
