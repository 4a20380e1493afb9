from __future__ import annotations

import numpy as np
import pytest
import torch

from rhyme.config import from_dict, to_dict
from rhyme.errors import ConfigError, UnknownName
from rhyme.views import (
    Clip,
    ClipPixels,
    ContrastTransform,
    EvalTransform,
    Keys,
    ShiftCropTransform,
    ViewPlan,
    ViewSpec,
)

SMALL = ContrastTransform.moco_v2(size=16)


def cycle_plan() -> ViewPlan:
    return ViewPlan(
        clips={"a": Clip(), "b": Clip(exclude="a"), "c": Clip(frames=3, place="uniform")},
        views={
            "query": ViewSpec(clip="a", transform=SMALL),
            "key": ViewSpec(clip="a", transform=SMALL),
            "candidate": ViewSpec(clip="b", transform=ShiftCropTransform()),
            "clip": ViewSpec(clip="c", transform=SMALL, consistent="clip"),
        },
    )


def arrays(draws):
    for name, clip in draws.clips.items():
        for part in ("index", "times", "valid", "coincides"):
            yield f"{name}.{part}", getattr(clip, part)
    for name, view in draws.views.items():
        yield from ((f"{name}.{part}", value) for part, value in view.parameters.items())
    yield from draws.targets.items()


def test_draws_do_not_depend_on_the_company_of_an_item(make_facts):
    facts = make_facts(b=37)
    plan, keys = cycle_plan(), Keys.of(5, 2, make_facts(b=37).id)
    whole = dict(arrays(plan.draw(facts, keys)))
    order = np.random.default_rng(0).permutation(37)
    for rows in (order, order[:5], order[5:6], slice(7, 20)):
        part = dict(arrays(plan.draw(facts.rows(rows), Keys.of(5, 2, facts.id[rows]))))
        assert part.keys() == whole.keys()
        for name, value in part.items():
            assert np.array_equal(value, whole[name][rows]), name


def test_draws_change_with_seed_epoch_item_repeat_and_view(make_facts):
    facts = make_facts(b=4)
    plan = cycle_plan()

    def brightness(seed=0, epoch=0, repeat=0, view="query"):
        keys = Keys.of(seed, epoch, facts.id, repeat)
        return plan.draw(facts, keys).views[view].parameters["brightness"]

    base = brightness()
    assert len(np.unique(base)) == 4
    for other in (brightness(seed=1), brightness(epoch=1), brightness(repeat=1)):
        assert not np.isin(other, base).any()
    assert not np.isin(brightness(view="key"), base).any()
    assert np.array_equal(base, brightness())


def test_a_consistent_view_draws_once_for_the_clip(make_facts):
    facts = make_facts(b=3)
    draws = cycle_plan().draw(facts, Keys.of(0, 0, facts.id))
    assert draws.views["clip"].parameters["hue"].shape == (3, 1)
    assert draws.clips["c"].index.shape == (3, 3)
    frames = torch.randint(0, 256, (1, 3, 24, 32), dtype=torch.uint8).expand(3, 3, 3, 24, 32)
    for mode, same in (("clip", True), ("frame", False)):
        spec = ViewSpec(clip="c", transform=SMALL, consistent=mode)
        plan = ViewPlan(clips={"c": Clip(frames=3)}, views={"x": spec})
        view = plan.apply(
            {"c": ClipPixels(frames=frames)}, plan.draw(facts, Keys.of(0, 0, facts.id))
        )["x"]
        assert torch.equal(view.data[:, 0], view.data[:, 2]) is same


def test_views_are_the_same_bits_in_any_grouping_and_with_any_threads(make_facts):
    facts = make_facts(b=9)
    plan = cycle_plan()
    generator = torch.Generator().manual_seed(1)
    pixels = {
        name: torch.randint(0, 256, (9, t, 3, 24, 32), dtype=torch.uint8, generator=generator)
        for name, t in (("a", 1), ("b", 1), ("c", 3))
    }

    def views(rows):
        part = {name: ClipPixels(frames=value[rows]) for name, value in pixels.items()}
        return plan.apply(part, plan.draw(facts.rows(rows), Keys.of(0, 0, facts.id[rows])))

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = views(np.arange(9))
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for rows in (np.arange(9)[::-1].copy(), np.array([4]), np.array([8, 2, 5])):
                for name, view in views(rows).items():
                    assert torch.equal(view.data, whole[name].data[torch.from_numpy(rows)]), name
                    assert torch.equal(view.map, whole[name].map[torch.from_numpy(rows)]), name
    finally:
        torch.set_num_threads(threads)


def test_padded_frames_are_empty_and_not_valid(make_facts):
    facts = make_facts(b=2, frames=[2, 4])
    plan = ViewPlan(
        clips={"a": Clip(frames=4, short="pad")},
        views={"x": ViewSpec(clip="a", transform=EvalTransform(size=8, resize=8))},
    )
    frames = torch.full((2, 4, 3, 24, 32), 200, dtype=torch.uint8)
    view = plan.apply({"a": ClipPixels(frames=frames)}, plan.draw(facts, Keys.of(0, 0, facts.id)))
    assert view["x"].valid.tolist() == [[True, True, False, False], [True] * 4]
    assert view["x"].data[0, 2:].abs().sum() == 0
    assert view["x"].data[0, 1].abs().sum() > 0


def test_same_as_takes_the_same_frames_and_targets_tell_of_coincidence(make_facts):
    facts = make_facts(b=2, frames=[1, 9])
    plan = ViewPlan(
        clips={"a": Clip(), "again": Clip(same_as="a"), "b": Clip(exclude="again")},
        views={"x": ViewSpec(clip="again", transform=SMALL)},
    )
    draws = plan.draw(facts, Keys.of(0, 0, facts.id))
    assert np.array_equal(draws.clips["a"].times, draws.clips["again"].times)
    assert draws.targets["b/coincides"].tolist() == [True, False]
    assert plan.feasible(facts).all()


@pytest.mark.parametrize(
    ("clips", "clip", "error", "words"),
    [
        ({"anchor": Clip()}, "ancor", UnknownName, "anchor"),
        ({"a": Clip(exclude="b"), "b": Clip()}, "a", UnknownName, "no earlier clip"),
        ({"a": Clip(frames=2), "b": Clip(exclude="a")}, "b", ConfigError, "several frames"),
    ],
)
def test_plans_that_make_no_sense_are_refused(clips, clip, error, words):
    with pytest.raises(error, match=words):
        ViewPlan(clips=clips, views={"x": ViewSpec(clip=clip, transform=SMALL)})


def test_a_plan_survives_being_written_as_a_config():
    plan = cycle_plan()
    assert from_dict(ViewPlan, to_dict(plan)) == plan
