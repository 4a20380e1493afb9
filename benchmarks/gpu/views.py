"""Two SimCLR views of 256 pictures on a GPU: ours against torchvision v2.

Compared: 8-bit frames of 320 x 240 on the host in, two float views of 224 (or 112) pixels on the
GPU out, by the recipe of ``benchmarks.augment``. ``each``: torchvision draws for every picture, as
training needs it, and takes them one by one; ``batch``: it draws once for all 256 and so does less.

Checked: with our draws, torchvision's functions give the same pictures to one level in the mean.

Expected: 5 times against a draw for each picture; 0.5 against one draw for all.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.augment import agree, by_torchvision_on_gpu, on_gpu, pictures, recipe
from benchmarks.ratio import Case, WrongResult, seconds
from rhyme.views import IMAGENET_MEAN, IMAGENET_STD, ContrastTransform


def one_by_one(frames: Tensor, transform: object) -> list[Tensor]:
    """Both views, a draw for each picture."""
    sent = frames.pin_memory().to("cuda", non_blocking=True)
    views = [torch.stack([transform(frame) for frame in sent]) for _ in range(2)]  # type: ignore[operator]
    torch.cuda.synchronize()
    return views


def cases(room: Path, quick: bool) -> Iterator[Case]:
    frames = pictures(8 if quick else 256)
    for size in (224, 112):
        transform = ContrastTransform.simclr(
            size=size, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD
        )

        def check(views: list[Tensor], others: list[Tensor], transform=transform) -> None:
            if [v.shape for v in views] != [v.shape for v in others]:
                raise WrongResult("views of other shapes")
            agree(frames, transform, [v.cpu() for v in views])

        peer = recipe(size, True)
        for name, side, least in (
            ("each", one_by_one, 5.0),
            ("batch", by_torchvision_on_gpu, 0.5),
        ):
            yield Case(
                name=f"gpu/views/{size}/{name}",
                ours=partial(on_gpu, frames, transform),
                peer=partial(side, frames, peer),
                peer_name=f"torchvision v2, one draw a {'picture' if name == 'each' else 'batch'}",
                same=check,
                at_least=least,
                why="pictures of one size travel together"
                if name == "each"
                else "each picture has draws of its own here",
                measure=seconds,
            )
