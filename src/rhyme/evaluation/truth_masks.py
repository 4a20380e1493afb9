"""Masks that lie beside a collection: DAVIS's folder of annotations, or a generated world's truth.

``JPEGImages/<sequence>/<frame>.jpg`` has its mask at ``Annotations/<sequence>/<frame>.png``, also
with a folder such as ``480p`` between, and so has a single picture within ``JPEGImages``;
``videos/<split>/<id>.mp4`` has it at ``truth/<id>.npz``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rhyme.catalog import Catalog, Item
from rhyme.errors import DataError
from rhyme.synthetic import APPEARANCES, read_truth

__all__ = ["Masks", "mask_path", "read_masks"]

FRAMES, MASKS = "JPEGImages", "Annotations"


@dataclass(frozen=True)
class Masks:
    """What is known of every pixel of an item's frames.

    Attributes:
        ids: object ids ``uint8 [t, h, w]``, 0 being the background.
        classes: class of each object by name, id 1 first, where the collection tells: a world of
            several creatures does. Else None.
    """

    ids: NDArray[np.uint8]
    classes: tuple[str, ...] | None = None


def mask_path(frame: str) -> str | None:
    """Where the mask of a frame lies, relative to the collection; None where there is none."""
    path = PurePosixPath(frame)
    if FRAMES not in path.parts:
        return None
    place = path.parts.index(FRAMES)
    return str(
        PurePosixPath(*path.parts[:place], MASKS, *path.parts[place + 1 :]).with_suffix(".png")
    )


def read_masks(catalog: Catalog, item: Item) -> Masks | None:
    """The masks of an item's frames.

    Id 255 is void and becomes background, but for gray masks that hold 0 and 255 alone, all masks
    of the item taken together: there the brighter level is the object.

    Args:
        catalog: the collection.
        item: one of its items.

    Returns:
        The masks; None where the collection has no masks of the item.

    Raises:
        DataError: a mask is missing among others, damaged, or of another size than its frame.
    """
    root = catalog.root
    if item.kind in ("frames", "image"):
        names = [mask_path(name) for name in item.files or (item.path,)]
        if names[0] is None or not (root / names[0]).is_file():
            return None
        size = (item.height, item.width)
        return Masks(_ids([_picture(root / str(name), size) for name in names]))
    video = Path(item.path)
    if item.kind != "video" or not (root / "truth" / f"{video.stem}.npz").is_file():
        return None
    truth = read_truth(root, video.stem)
    if truth.objects is None:
        return None
    known = truth.appearances
    return Masks(
        truth.objects,
        None if known is None else tuple(APPEARANCES[code] for code in known.tolist()),
    )


def _ids(pictures: list[tuple[NDArray[np.uint8], bool]]) -> NDArray[np.uint8]:
    """Object ids ``[t, h, w]`` of all masks of an item, each given with whether it has a palette.

    A single frame may show nothing but background and void, so no mask is judged by itself.
    """
    levels = np.stack([picture for picture, _ in pictures])
    two = not any(paletted for _, paletted in pictures) and bool(np.isin(levels, (0, 255)).all())
    levels[levels == 255] = 1 if two else 0
    return levels


def _picture(path: Path, size: tuple[int, int]) -> tuple[NDArray[np.uint8], bool]:
    """The levels ``uint8 [h, w]`` of a mask, and whether they are numbers of a palette."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.mode not in ("1", "L", "P"):
                raise DataError(
                    "a mask must hold object ids: one bit, gray or palette",
                    file=path,
                    value=picture.mode,
                    remedy="store it as a palette or gray PNG whose values are the ids",
                )
            if picture.size != size[::-1]:
                raise DataError(
                    "the mask has another size than its frame", file=path, value=picture.size
                )
            levels = np.asarray(picture, dtype=np.uint8)
            # white of one bit is the white of eight: some programs store a frame so that allows it
            return levels * 255 if picture.mode == "1" else levels, picture.mode == "P"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the mask cannot be read: {error}",
            file=path,
            stage="masks",
            remedy="copy the annotations again",
        ) from error
