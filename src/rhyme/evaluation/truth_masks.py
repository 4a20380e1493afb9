"""Masks that lie beside a collection: DAVIS's folder of annotations, or a generated world's truth.

``JPEGImages/<sequence>/<frame>.jpg`` has its mask at ``Annotations/<sequence>/<frame>.png``, also
with a folder such as ``480p`` between, and so has a single picture within ``JPEGImages``;
``videos/<split>/<id>.mp4`` has it at ``truth/<id>.npz``.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rhyme.catalog import Catalog, Item
from rhyme.errors import DataError
from rhyme.synthetic import read_truth

__all__ = ["mask_path", "read_masks"]

FRAMES, MASKS = "JPEGImages", "Annotations"


def mask_path(frame: str) -> str | None:
    """Where the mask of a frame lies, relative to the collection; None where there is none."""
    path = PurePosixPath(frame)
    if FRAMES not in path.parts:
        return None
    place = path.parts.index(FRAMES)
    return str(
        PurePosixPath(*path.parts[:place], MASKS, *path.parts[place + 1 :]).with_suffix(".png")
    )


def read_masks(catalog: Catalog, item: Item) -> NDArray[np.uint8] | None:
    """Object ids ``uint8 [t, h, w]`` of an item's frames, 0 being the background.

    Id 255 of a picture with a palette is void and becomes background; in a picture of two levels
    the brighter one is the object.

    Args:
        catalog: the collection.
        item: one of its items.

    Returns:
        The ids; None where the collection has no masks of the item.

    Raises:
        DataError: a mask is missing among others, damaged, or of another size than its frame.
    """
    root = catalog.root
    if item.kind in ("frames", "image"):
        names = [mask_path(name) for name in item.files or (item.path,)]
        if names[0] is None or not (root / names[0]).is_file():
            return None
        size = (item.height, item.width)
        return np.stack([_picture(root / str(name), size) for name in names])
    video = Path(item.path)
    if item.kind != "video" or not (root / "truth" / f"{video.stem}.npz").is_file():
        return None
    found = read_truth(root, video.stem).masks
    if found is None:
        return None
    return found.astype(np.uint8)


def _picture(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
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
            levels, paletted = np.asarray(picture, dtype=np.uint8), picture.mode == "P"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"the mask cannot be read: {error}",
            file=path,
            stage="masks",
            remedy="copy the annotations again",
        ) from error
    if not paletted and set(np.unique(levels)) <= {0, 255}:
        return (levels > 0).astype(np.uint8)
    return np.where(levels == 255, 0, levels).astype(np.uint8)
