"""Small tensors on their way to a GPU, which nobody is to wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device, without waiting for what the device has still to do.

    A copy from pageable memory waits for all work that was launched before it, so the host would
    fall behind the GPU at every index and every factor. Through pinned memory it does not.

    Args:
        values: any tensor; one that is not on the CPU moves as usual.
        device: where it is to be.
    """
    if torch.device(device).type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
