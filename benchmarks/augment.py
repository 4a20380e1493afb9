"""Two SimCLR views of each picture: our transform against torchvision v2, on one thread.

Compared: 8-bit frames of 320 x 240 in, two float views of 224 (or 64) pixels each out, by SimCLR's
recipe: crop of 8 % to all of the area, flip, jitter of 0.8, 0.8, 0.8, 0.2, grayscale, blur with a
kernel of a tenth of the view, normalise; bilinear, as torchvision's crop is by default. Our side
draws for the whole batch from keys and keeps the map of every view; torchvision's side is its own
recipe, picture by picture, 8-bit to the end or float from the crop on.

On a GPU, where there is one: our views of a batch at once, its bytes sent over, against torchvision
on the batch, which then draws once for all of its pictures and so does less.

Checked: with *our* draws, torchvision's functions give the same pictures to one level in the mean.

Expected: 2.5 times at 224 (torchvision's hue and 2-D blur are slow; ours are separable and work on
rows that need them); at 64 the cost a call weighs more on both sides, 2.5 times as well.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from benchmarks.ratio import Case, WrongResult
from rhyme.views import IMAGENET_MEAN, IMAGENET_STD, ContrastTransform, Keys
from rhyme.views.batched import apply_batched, to_device

WIDTH, HEIGHT = 320, 240
NAMES = ("query", "key")
SMALL = "at 64 pixels a third of our time is the resize that both sides share"


def pictures(count: int) -> Tensor:
    """Smooth colours under noise, ``uint8 [count, 3, h, w]``."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, HEIGHT // 20, WIDTH // 20, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")
    noise = torch.rand(count, 3, HEIGHT, WIDTH, generator=generator) * 0.1
    return ((smooth * 0.9 + noise) * 255).to(torch.uint8)


def ours(frames: Tensor, transform: ContrastTransform) -> list[Tensor]:
    """Both views of all pictures."""
    count = len(frames)
    width, height = np.full(count, WIDTH), np.full(count, HEIGHT)
    sizes = np.stack([height, width], axis=1)
    keys = Keys.of(0, 0, range(count))
    views = []
    for name in NAMES:
        draw = transform.draw(keys.within(name), 1, width, height)
        views.append(transform.apply(frames[:, None], draw, sizes)[0][:, 0])
    return views


def recipe(size: int, as_float: bool) -> Callable[[Tensor], Tensor]:
    """SimCLR of torchvision's parts."""
    kernel = size // 10 // 2 * 2 + 1
    to_float = [v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
            *(to_float if as_float else []),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5),
            v2.RandomHorizontalFlip(),
            *([] if as_float else to_float),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def by_torchvision(frames: Tensor, transform: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Both views, picture by picture."""
    return [torch.stack([transform(frame) for frame in frames]) for _ in NAMES]


def replayed(frame: Tensor, draw: dict[str, np.ndarray], size: int) -> Tensor:
    """What torchvision's functions make of one picture with our draws, in levels."""
    top, left, tall, wide = (int(x) for x in draw["box"][0])
    out = tv.resized_crop(frame, top, left, tall, wide, [size, size], antialias=True)
    if draw["flip"][0]:
        out = tv.horizontal_flip(out)
    out = out.float() / 255
    parts = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    names = ("brightness", "contrast", "saturation", "hue")
    if draw["jitter"][0]:
        for part in draw["order"][0]:
            out = parts[part](out, float(draw[names[part]][0]))
    if draw["gray"][0]:
        out = tv.rgb_to_grayscale(out, num_output_channels=3)
    sigma = float(draw["sigma"][0])
    if sigma > 0:
        reach = min(int(np.ceil(4 * sigma)), int(size * 0.1 / 2))
        out = tv.gaussian_blur(out, [2 * reach + 1] * 2, [sigma] * 2)
    return out * 255


def agree(frames: Tensor, transform: ContrastTransform, views: list[Tensor]) -> None:
    """Our views of a few pictures, undone to levels, beside the replay."""
    mean = torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1)
    std = torch.tensor(IMAGENET_STD).reshape(3, 1, 1)
    count = len(frames)
    for name, view in zip(NAMES, views, strict=True):
        draw = transform.draw(
            Keys.of(0, 0, range(count)).within(name),
            1,
            np.full(count, WIDTH),
            np.full(count, HEIGHT),
        )
        for k in range(0, count, max(1, count // 8)):
            mine = (view[k] * std + mean) * 255
            other = replayed(frames[k], {n: v[k] for n, v in draw.items()}, transform.size)
            gap = float((mine - other).abs().mean())
            if gap > 1.0:
                raise WrongResult(f"view {name!r} of picture {k} is {gap:.2f} levels off")


def on_gpu(frames: Tensor, transform: ContrastTransform) -> list[Tensor]:
    """Both views of all pictures, made at once on the GPU."""
    count, device = len(frames), torch.device("cuda")
    width, height = np.full(count, WIDTH), np.full(count, HEIGHT)
    sizes = np.stack([height, width], axis=1)
    keys = Keys.of(0, 0, range(count))
    sent = to_device(frames[:, None], device)
    views = []
    for name in NAMES:
        draw = transform.draw(keys.within(name), 1, width, height)
        views.append(apply_batched(transform, sent, draw, sizes, sizes)[0][:, 0])
    torch.cuda.synchronize()
    return views


def by_torchvision_on_gpu(frames: Tensor, transform: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Both views, one draw for all pictures of each."""
    sent = frames.pin_memory().to("cuda", non_blocking=True)
    views = [transform(sent) for _ in NAMES]
    torch.cuda.synchronize()
    return views


def cases(room: Path, quick: bool) -> Iterator[Case]:
    frames = pictures(8 if quick else 48)
    for size in (224, 64):
        transform = ContrastTransform.simclr(
            size=size, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD
        )

        def check(views: list[Tensor], others: list[Tensor], transform=transform) -> None:
            if [v.shape for v in views] != [v.shape for v in others]:
                raise WrongResult("views of other shapes")
            agree(frames, transform, [v.cpu() for v in views])

        for kind, as_float in (("uint8", False), ("float", True)):
            peer = recipe(size, as_float)
            yield Case(
                name=f"augment/simclr/{size}/{kind}",
                ours=lambda transform=transform: ours(frames, transform),
                peer=lambda peer=peer: by_torchvision(frames, peer),
                peer_name=f"torchvision v2, {kind}",
                same=check,
                at_least=2.5,
                why="hue and blur of our own, the rest on rows of a batch",
                cause=SMALL if size == 64 else "",
                threads=1,
                rounds=7,
            )
        if not torch.cuda.is_available():
            print(f"augment/simclr/{size}/gpu: not measured, no GPU here", file=sys.stderr)
            continue
        peer = recipe(size, True)
        yield Case(
            name=f"augment/simclr/{size}/gpu",
            ours=lambda transform=transform: on_gpu(frames, transform),
            peer=lambda peer=peer: by_torchvision_on_gpu(frames, peer),
            peer_name="torchvision v2 on the GPU, one draw a batch",
            same=check,
            at_least=0.5,
            why="each picture has draws of its own here, and its own box is resampled",
            rounds=7,
        )
