from __future__ import annotations

from dataclasses import replace

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
        clips={
            "a": Clip(),
            "b": Clip(exclude="a"),
            "c": Clip(frames=3, place="uniform"),
            "d": Clip(frames=4, strides=(2, 4), place="edges", reverse=0.5),
            "e": Clip(part=(1, 2), of="d"),
        },
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


def clip_draws(facts, clips, epoch=0):
    views = {"x": ViewSpec(clip=next(iter(clips)), transform=SMALL)}
    return ViewPlan(clips=clips, views=views).draw(facts, Keys.of(4, epoch, facts.id))


def test_all_clips_that_may_run_backwards_share_one_coin_an_item(make_facts):
    facts = make_facts(b=4000, frames=100)
    rule = Clip(frames=4, stride=3, place="edges", reverse=0.25)
    draws = clip_draws(facts, {"a": rule, "b": rule, "c": Clip(frames=4), "d": Clip(same_as="a")})
    back = draws.targets["reversed"]
    assert back.dtype == bool
    assert back.shape == (4000,)
    assert abs(back.mean() - 0.25) < 0.03
    forth = clip_draws(facts, {"a": replace(rule, reverse=0.0), "b": replace(rule, reverse=0.0)})
    assert "reversed" not in forth.targets
    for name in ("a", "b"):
        whole = forth.clips[name].times
        assert np.array_equal(
            draws.clips[name].times, np.where(back[:, None], whole[:, ::-1], whole)
        )
    assert (np.diff(draws.clips["c"].index) == 1).all()
    assert draws.clips["d"] is draws.clips["a"]
    later = clip_draws(facts, {"a": rule}, epoch=1).targets["reversed"]
    assert (later != back).any()


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("place", ["random", "centre", "edges"])
@pytest.mark.parametrize("reverse", [0.0, 0.5])
def test_parts_follow_one_another_through_the_span_of_the_long_clip(
    make_facts, parts, place, reverse
):
    facts = make_facts(b=200, frames=np.repeat([3, 40, 8 * 2 * parts, 300], 50))
    clips = {"long": Clip(frames=8, stride=2 * parts, place=place, reverse=reverse)}
    clips |= {f"s{i}": Clip(part=(i, parts), of="long") for i in range(parts)}
    draws = clip_draws(facts, clips)
    whole = np.concatenate([draws.clips[f"s{i}"].index for i in range(parts)], axis=1)
    assert np.array_equal(whole[:, ::parts], draws.clips["long"].index)
    back = draws.targets.get("reversed", np.zeros(200, dtype=bool))
    for row in range(200):
        span = whole[row][::-1] if back[row] else whole[row]
        count = facts.frames[row]
        if place == "edges":
            middle = span[4 * parts]
            wanted = np.clip(middle + 2 * (np.arange(8 * parts) - 4 * parts), 0, count - 1)
        else:
            room = max(count - 2 * (8 * parts - 1), 1)  # the last part too lies inside the item
            assert 0 <= span[0] < room
            if place == "centre":
                assert span[0] == (room - 1) // 2
            wanted = np.minimum(span[0] + 2 * np.arange(8 * parts), count - 1)
        assert span.tolist() == wanted.tolist()


def test_parts_in_seconds_and_with_a_drawn_stride(make_facts):
    facts = make_facts(b=300, frames=400, fps=29.97)
    clips = {
        "long": Clip(frames=4, spacing=0.5),
        "end": Clip(part=(1, 2), of="long"),
        "pace": Clip(frames=4, strides=(2, 4, 40, 80)),
        "first": Clip(part=(0, 2), of="pace"),
    }
    draws = clip_draws(facts, clips)
    offsets = np.floor(np.arange(8) * 0.25 * 29.97 + 0.5)
    start = draws.clips["long"].index[:, :1]
    assert np.array_equal(draws.clips["long"].index - start, np.tile(offsets[::2], (300, 1)))
    assert np.array_equal(draws.clips["end"].index - start, np.tile(offsets[4:], (300, 1)))
    stride = draws.targets["pace/stride"]
    assert set(stride) == {2, 4, 40, 80}
    assert np.array_equal(np.diff(draws.clips["first"].index)[:, 0], stride // 2)
    assert draws.clips["first"].targets == {}


def test_a_short_item_is_judged_by_the_span_of_all_parts(make_facts):
    facts = make_facts(b=2, frames=[60, 61])
    clips = {
        "long": Clip(frames=8, stride=8, short="drop"),
        "one": Clip(part=(1, 2), of="long"),
    }
    plan = ViewPlan(clips=clips, views={"x": ViewSpec(clip="one", transform=SMALL)})
    assert plan.frames("one") == 8
    assert plan.parts("long") == 2
    assert plan.feasible(facts).tolist() == [False, True]


@pytest.mark.parametrize(
    ("clips", "clip", "error", "words"),
    [
        ({"a": Clip(part=(0, 2), of="b"), "b": Clip()}, "a", UnknownName, "no earlier clip"),
        (
            {"a": Clip(frames=4, stride=3), "b": Clip(part=(0, 2), of="a")},
            "b",
            ConfigError,
            "does not divide",
        ),
        (
            {"a": Clip(frames=4, strides=(2, 3)), "b": Clip(part=(0, 2), of="a")},
            "b",
            ConfigError,
            "does not divide",
        ),
        (
            {"a": Clip(frames=4, place="grid"), "b": Clip(part=(0, 2), of="a")},
            "b",
            ConfigError,
            "no even spacing",
        ),
        (
            {
                "a": Clip(stride=6),
                "b": Clip(part=(0, 2), of="a"),
                "c": Clip(part=(0, 3), of="a"),
            },
            "b",
            ConfigError,
            "different numbers",
        ),
        (
            {
                "a": Clip(stride=4),
                "b": Clip(part=(0, 2), of="a"),
                "c": Clip(part=(0, 2), of="b"),
            },
            "b",
            ConfigError,
            "no even spacing",
        ),
        ({"a": Clip(reverse=0.5), "b": Clip(reverse=0.2)}, "b", ConfigError, "share one coin"),
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
