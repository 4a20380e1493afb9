"""DUAL's views of clips: our transform against torchvision v2 on whole clips, and frame by frame.

Compared: eight clips of 16 frames of 320 x 240, 8-bit, in; DUAL's strong view of 112 pixels of each
out: resize to 128 x 171, crop, jitter of 0.8, 0.8, 0.8, 0.2 on 64 % of the clips, blur on half of
them, normalise; one draw a clip, one thread.

- *torchvision*: its functions, each called once for a whole clip, with our draws, so that both do
  the same work; 8-bit to the end, or float from the crop on.
- *frame by frame*: our own transform, given one frame of all clips after the other.
- ``shift``: the cheap transform of small worlds, 32 clips of 16 frames kept at 30 pixels, against
  itself frame by frame.
- ``files``: a batch of four items from mp4 files of 640 x 360, two clips of 16 frames at stride 4
  of each and three views, against PyAV by hand (a seek a clip, one decoder thread) and
  torchvision's functions on whole clips, 8-bit.

Checked: torchvision's pictures are ours to one level in the mean, to three where it cuts levels
off to whole ones after every step; frame by frame they are the same bits.

Expected: 2.5 times torchvision, whose hue and two-dimensional blur are slow; 1.3 times frame by
frame, as the arithmetic is the same and calls are fewer; twice for the cheap transform, where calls
weigh more. From files 1.5: decoding leads there, both sides use FFmpeg for it, and what is left of
the time is the views.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from benchmarks.augment import HEIGHT, WIDTH, pictures
from benchmarks.decode import FPS, film
from benchmarks.ratio import Case, WrongResult
from rhyme.catalog import Catalog, scan
from rhyme.loading.maker import BatchMaker, Request
from rhyme.views import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Clip,
    ContrastTransform,
    Draws,
    FrameDraws,
    Keys,
    ShiftCropTransform,
    View,
    ViewPlan,
    ViewSpec,
)

FRAMES, STRIDE = 16, 4
PARTS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
NAMES = ("brightness", "contrast", "saturation", "hue")
Drawn = dict[str, np.ndarray]
Transform = ContrastTransform | ShiftCropTransform


def drawn(transform: Transform, clips: int) -> Drawn:
    """One draw a clip."""
    width, height = np.full(clips, WIDTH), np.full(clips, HEIGHT)
    return transform.draw(Keys.of(0, 0, range(clips)), 1, width, height)


def sizes_of(frames: Tensor) -> np.ndarray:
    return np.tile(np.array(frames.shape[-2:]), (len(frames), 1))


def ours(frames: Tensor, transform: Transform, draw: Drawn) -> Tensor:
    """All views at once."""
    return transform.apply(frames, draw, sizes_of(frames))[0]


def frame_by_frame(frames: Tensor, transform: Transform, draw: Drawn) -> Tensor:
    """The same, one frame of all clips after the other."""
    sizes = sizes_of(frames)
    single = [transform.apply(frames[:, k : k + 1], draw, sizes)[0] for k in range(FRAMES)]
    return torch.cat(single, dim=1)


def replayed(clip: Tensor, draw: Drawn, transform: ContrastTransform, as_float: bool) -> Tensor:
    """One clip by torchvision's functions, with our draw of it."""
    rows, columns = transform.resize or (0, 0)
    out = tv.resize(clip, [rows, columns], antialias=True)
    top, left = (int(v) for v in draw["box"][0])
    out = tv.crop(out, top, left, transform.size, transform.size)
    out = tv.to_dtype(out, torch.float32, scale=True) if as_float else out
    if draw["jitter"][0]:
        for part in draw["order"][0]:
            out = PARTS[part](out, float(draw[NAMES[part]][0]))
    sigma = float(draw["sigma"][0])
    if sigma > 0:
        out = tv.gaussian_blur(out, [2 * int(np.ceil(4 * sigma)) + 1] * 2, [sigma] * 2)
    out = out if as_float else tv.to_dtype(out, torch.float32, scale=True)
    return tv.normalize(out, list(IMAGENET_MEAN), list(IMAGENET_STD))


def by_torchvision(
    frames: Tensor, transform: ContrastTransform, draw: Drawn, as_float: bool
) -> Tensor:
    """All views, clip by clip."""
    made = [
        replayed(clip, {name: value[k] for name, value in draw.items()}, transform, as_float)
        for k, clip in enumerate(frames)
    ]
    return torch.stack(made)


def close(mine: Tensor, theirs: Tensor, levels: float = 3.0) -> None:
    """So many levels apart in the mean of each view."""
    std = torch.tensor(IMAGENET_STD).reshape(3, 1, 1) * 255
    gap = ((mine - theirs).abs() * std).mean(dim=(-4, -3, -2, -1))
    if gap.max() > levels:
        raise WrongResult(f"a view is {float(gap.max()):.2f} levels off")


def equal(mine: Tensor, theirs: Tensor) -> None:
    if not torch.equal(mine, theirs):
        raise WrongResult("the views differ")


def dual_plan() -> ViewPlan:
    """DUAL's clips and views."""
    rule = Clip(frames=FRAMES, stride=STRIDE, place="edges", reverse=0.5)
    weak, strong = (ContrastTransform.dual(weak=weak) for weak in (True, False))
    views = {"source": ("a", weak), "positive": ("b", strong), "shuffled": ("a", strong)}
    return ViewPlan(
        clips={"a": rule, "b": rule},
        views={
            name: ViewSpec(clip=clip, transform=transform, consistent="clip")
            for name, (clip, transform) in views.items()
        },
    )


def from_files(maker: BatchMaker, rows: np.ndarray) -> dict[str, View]:
    """A batch as a worker makes it, its files opened anew."""
    maker.close()
    made = maker(Request(epoch=0, rows=rows, repeats=np.zeros_like(rows)))
    return dict(made.batch.views)


def clip_by_hand(path: Path, drawn: FrameDraws, item: int) -> Tensor:
    """Frames of one clip: a seek to its first one, then decoding up to its last."""
    convert, wanted = VideoReformatter(), drawn.index[item]
    kept: dict[int, np.ndarray] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        ticks = round(1 / (FPS * float(stream.time_base)))
        start = stream.start_time or 0
        container.seek(start + int(wanted.min()) * ticks, stream=stream, backward=True)
        for frame in container.decode(stream):
            number = (frame.pts - start) // ticks
            if number in wanted:
                rgb = convert.reformat(frame, frame.width, frame.height, "rgb24", threads=1)
                kept[number] = rgb.to_ndarray()
            if number >= wanted.max():
                break
    return torch.from_numpy(np.stack([kept[int(k)] for k in wanted])).permute(0, 3, 1, 2)


def by_hand(catalog: Catalog, plan: ViewPlan, draws: Draws) -> dict[str, Tensor]:
    """The same batch from PyAV's frames, by torchvision's functions."""
    paths = [Path(catalog.root) / catalog.item(k).path for k in range(len(catalog))]
    clips = {
        name: [clip_by_hand(path, draw, k) for k, path in enumerate(paths)]
        for name, draw in draws.clips.items()
    }
    views: dict[str, Tensor] = {}
    for name, spec in plan.views.items():
        assert isinstance(spec.transform, ContrastTransform)
        parameters = draws.views[name].parameters
        made = [
            replayed(clip, {n: v[k] for n, v in parameters.items()}, spec.transform, as_float=False)
            for k, clip in enumerate(clips[spec.clip])
        ]
        views[name] = torch.stack(made)
    return views


def all_close(mine: dict[str, View], theirs: dict[str, Tensor]) -> None:
    for name, view in mine.items():
        close(view.data, theirs[name])


def cases(room: Path, quick: bool) -> Iterator[Case]:
    count = 2 if quick else 8
    frames = pictures(count * FRAMES).unflatten(0, (count, FRAMES))
    strong = ContrastTransform.dual()
    draw = drawn(strong, count)
    for kind, as_float in (("uint8", False), ("float", True)):
        yield Case(
            name=f"clips/dual/{kind}",
            ours=lambda: ours(frames, strong, draw),
            peer=lambda as_float=as_float: by_torchvision(frames, strong, draw, as_float),
            peer_name=f"torchvision v2 on clips, {kind}",
            same=partial(close, levels=1.0 if as_float else 3.0),
            at_least=2.5,
            why="hue and blur of our own, a clip's frames together",
            cause="a quarter of our time is the resize, which both sides share",
            threads=1,
        )
    yield Case(
        name="clips/dual/frames",
        ours=lambda: ours(frames, strong, draw),
        peer=lambda: frame_by_frame(frames, strong, draw),
        peer_name="our own, frame by frame",
        same=equal,
        at_least=1.3,
        why="fewer calls, the same arithmetic",
        threads=1,
    )
    small = pictures(4 * count * FRAMES)[..., :30, :30].contiguous()
    small, shift = small.unflatten(0, (4 * count, FRAMES)), ShiftCropTransform()
    shifts = drawn(shift, 4 * count)
    yield Case(
        name="clips/shift/frames",
        ours=lambda: ours(small, shift, shifts),
        peer=lambda: frame_by_frame(small, shift, shifts),
        peer_name="our own, frame by frame",
        same=equal,
        at_least=2.0,
        why="fewer calls, which weigh more on small pictures",
        threads=1,
    )
    (room / "films").mkdir()
    for k in range(2 if quick else 4):
        film(room / "films" / f"{k}.mp4", 4 if quick else 10, 12 if k % 2 else 250)
    catalog, plan = scan(room / "films", out=room / "films.arrow"), dual_plan()
    maker = BatchMaker(catalog=catalog, plan=plan, seed=0)
    rows = np.arange(len(catalog))
    facts = catalog.facts(rows)
    draws = plan.draw(facts, Keys.of(0, 0, facts.id))
    yield Case(
        name="clips/files",
        ours=lambda: from_files(maker, rows),
        peer=lambda: by_hand(catalog, plan, draws),
        peer_name="PyAV, a seek a clip, and torchvision v2 on clips",
        same=all_close,
        at_least=1.5,
        why="views cost less, and what two clips share is decoded once",
        threads=1,
    )
    maker.close()
