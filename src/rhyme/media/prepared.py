"""A source file as it lies in a prepared shard: frames by time, at training size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rhyme.errors import NotMedia, UnsupportedMedia
from rhyme.media.info import MediaInfo
from rhyme.media.limits import DEFAULT_LIMITS, Limits
from rhyme.media.shard import Entry, Shard, open_shard
from rhyme.media.still import decode_still
from rhyme.media.times import check_request, shown_at


class PreparedFrames:
    """One entry of a shard, read like the file that it was made from.

    ``info`` states the source's facts, its full size included; pictures come at the stored size.
    Nothing is opened before the first use.

    Args:
        path: the shard.
        entry: number of the entry in it.
        name: the source's name, for messages.
        size: bytes that the shard must have.
        limits: bounds for the shard and for requests.

    Attributes:
        path: the shard.
        name: the source's name.
        decoded_frames: pictures decoded so far.
        corrupt: distinct returned pictures that were damaged in the source.
    """

    def __init__(
        self,
        path: str | Path,
        entry: int,
        *,
        name: str = "",
        size: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.path = Path(path)
        self.name = name
        self.decoded_frames = 0
        self.corrupt = 0
        self._number, self._size, self._limits = entry, size, limits
        self._seen: set[int] = set()
        self._opened: tuple[Shard, Entry] | None = None

    def __getstate__(self) -> dict[str, object]:
        names = ("path", "name", "_number", "_size", "_limits")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.decoded_frames = self.corrupt = 0
        self._seen, self._opened = set(), None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the shard; the next use takes it again."""
        self._opened = None

    def _open(self) -> tuple[Shard, Entry]:
        if self._opened is None:
            shard = open_shard(self.path, limits=self._limits, size=self._size)
            self._opened = (shard, shard.entry(self._number))
        return self._opened

    @property
    def info(self) -> MediaInfo:
        """Facts about the source.

        Raises:
            DataError: the shard is missing, changed or damaged.
        """
        return self._open()[0].info(self._number)

    @property
    def times(self) -> np.ndarray:
        """float64 ``[n]``: times in the source of the frames that were kept.

        Raises:
            DataError: the shard is missing, changed or damaged.
        """
        return self._open()[1].times

    @property
    def stored(self) -> tuple[int, int]:
        """Rows and columns of the pictures."""
        entry = self._open()[1]
        return entry.rows, entry.columns

    def frames_at(self, times_s: Sequence[float] | np.ndarray | Tensor) -> Tensor:
        """The pictures shown at the given times; see `rhyme.media.Video.frames_at`.

        Args:
            times_s: seconds, ``[t]``, any order, repeats allowed, clamped to the ends.

        Returns:
            uint8 ``[t, 3, h, w]`` at the stored size, channels interleaved in memory.

        Raises:
            DataError: the shard is missing, changed or damaged.
            NotMedia: a picture in it is damaged.
        """
        return self.read(times_s)[0]

    def read(self, times_s: Sequence[float] | np.ndarray | Tensor) -> tuple[Tensor, np.ndarray]:
        """The pictures shown at the given times, and when each of them was first shown.

        Args:
            times_s: as in `frames_at`.

        Returns:
            uint8 ``[t, 3, h, w]`` and float64 ``[t]``.

        Raises:
            DataError: the shard is missing, changed or damaged.
            NotMedia: a picture in it is damaged.
            LimitExceeded: the request is too large.
        """
        shard, entry = self._open()
        index = shown_at(entry.times, times_s)
        check_request(len(index), entry.columns, entry.rows, self._limits, self.path)
        wanted, where = np.unique(index, return_inverse=True)
        # Decoders give interleaved channels: to part them would cost as much as decoding.
        out = torch.empty((len(wanted), entry.rows, entry.columns, 3), dtype=torch.uint8)
        target = out.numpy()
        for place, k in enumerate(wanted.tolist()):
            self._picture(shard, entry, k, target[place])
            if entry.damaged[k] and k not in self._seen:
                self._seen.add(k)
                self.corrupt += 1
        pictures = out.permute(0, 3, 1, 2)
        if len(wanted) != len(index) or (where[1:] < where[:-1]).any():
            pictures = pictures[torch.from_numpy(where.reshape(-1))]
        return pictures, entry.times[index]

    def _picture(self, shard: Shard, entry: Entry, k: int, out: np.ndarray) -> None:
        try:
            decode_still(shard.picture(entry, k), entry.form, out)
        except ValueError as error:
            raise NotMedia(
                f"frame {k} of {self.name or 'an item'} is damaged in its shard: {error}",
                file=self.path,
                stage="decode",
                remedy="check the shards: rhyme prepare SHARDS --verify",
            ) from error
        self.decoded_frames += 1

    def audio(self, start_s: float, stop_s: float, rate: int) -> None:
        """Shards hold no sound.

        Args:
            start_s: ignored.
            stop_s: ignored.
            rate: ignored.

        Returns:
            None where the source has no sound track either.

        Raises:
            UnsupportedMedia: the source has one.
        """
        if self.info.audio is not None:
            raise UnsupportedMedia(
                "prepared shards hold no sound",
                file=self.name or self.path,
                stage="read",
                remedy="give the original files: --data DIR",
            )
