"""One rank of ``test_two_ranks_equal_one``: python norm_on_ranks.py RANK WORLD FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from rhyme import distributed
from rhyme.encoders import GroupBatchNorm2d, GroupBatchNorm3d
from rhyme.errors import ConfigError


def main(rank: int, world: int, folder: Path) -> None:
    distributed.init(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world, timeout_s=100
    )
    torch.manual_seed(3)
    x = torch.randn(8, 3, 4, 5, dtype=torch.float64) * 2 + 3
    x = x * torch.arange(1, 9).view(-1, 1, 1, 1)
    weights = torch.randn_like(x)
    mine = distributed.rank_slice(8)
    found: dict[str, torch.Tensor | bool] = {}
    for groups in ("1", "2", "4", "1 of clips", "4 of clips"):
        clips = groups.endswith("clips")
        kind = GroupBatchNorm3d if clips else GroupBatchNorm2d
        norm = kind(3, norm_groups=int(groups[0])).double()
        pixels = x[mine].clone().requires_grad_()
        output = norm(pixels.unflatten(2, (2, 2))).flatten(2, 3) if clips else norm(pixels)
        (output * weights[mine]).mean().backward()
        found[f"{groups}.output"] = output.detach()
        found[f"{groups}.grad"] = pixels.grad
        for name in ("weight", "bias"):
            found[f"{groups}.{name}"] = getattr(norm, name).grad
        for name in ("running_mean", "running_var"):
            found[f"{groups}.{name}"] = getattr(norm, name).clone()
    try:
        GroupBatchNorm2d(3, norm_groups=3).double()(x[mine])
    except ConfigError as error:
        found["refused"] = "2 ranks" in str(error)
    torch.save(found, folder / f"{rank}.pt")
    distributed.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
