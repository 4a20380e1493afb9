"""Features behind a head: for systems whose cycle has a head of its own."""

from __future__ import annotations

from dataclasses import replace

import torch

from rhyme.encoders import EncoderPackage, Head, build_head, seeded
from rhyme.errors import EvaluationError
from rhyme.tasks import FeatureTable

__all__ = ["cycle_head", "fresh_head", "through_head"]


def cycle_head(package: EncoderPackage) -> str | None:
    """Name of the head that the package's cycle was trained with, if it has one.

    Raises:
        EvaluationError: the package names a head that it does not hold.
    """
    name = package.extra.get("cycle_head")
    if name is None:
        return None
    if name not in package.heads:
        raise EvaluationError(
            "the package lacks the head that it names", file=package.directory, value=name
        )
    return str(name)


def fresh_head(head: Head, seed: int) -> Head:
    """The same head with weights that were never trained, in evaluation mode."""
    with seeded(seed):
        built = build_head(head.config, head.in_dim, norm_groups=head.norm_groups)
    return built.to(next(head.parameters()).device).eval()


@torch.inference_mode()
def through_head(table: FeatureTable, head: Head) -> FeatureTable:
    """A table of embeddings ``[n, f, out]`` from a table of backbone features ``[n, f, d]``."""
    device = next(head.parameters()).device
    flat = torch.from_numpy(table.features.reshape(-1, table.dim)).to(device)
    found = head(flat).float().cpu().numpy()
    return replace(table, features=found.reshape(*table.features.shape[:2], -1))
