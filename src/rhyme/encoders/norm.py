"""Batch normalisation over a fixed number of groups of the *global* batch.

Batch statistics decide what a contrastive encoder can cheat with, so they must not depend on how
many devices share a batch. ``norm_groups = 1`` takes the statistics over the global batch,
whichever ranks hold it; ``norm_groups = 8`` cuts the global batch into eight runs of neighbouring
rows and normalises each alone, on one device as on eight. That is what shuffle-BN shuffles over
(MoCo, arXiv 1911.05722, section 3.3). State dicts are those of ``nn.BatchNorm``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from rhyme.distributed import sum_all, world_size
from rhyme.errors import ConfigError


class GroupBatchNorm(_BatchNorm):
    """What batch norms of any dimension share: groups of the global batch."""

    def __init__(
        self,
        num_features: int,
        *,
        norm_groups: int = 1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        offset: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        if norm_groups < 1:
            raise ConfigError("norm_groups must be at least 1", value=norm_groups)
        self.offset = offset
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.norm_groups = norm_groups
        self.parts = 1  # see rhyme.encoders.parts
        if not offset:
            self.register_parameter("bias", None)

    def reset_parameters(self) -> None:
        """Back to statistics of 0 and 1, scale 1 and offset 0."""
        self.reset_running_stats()
        if self.affine:
            nn.init.ones_(self.weight)
            if self.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise ``[b, c, ...]``; the rows are this rank's part of the global batch.

        Raises:
            ConfigError: the groups cannot be formed from these rows on this many ranks.
        """
        if not self.training:
            return super().forward(input)
        ranks = world_size()
        if self.norm_groups == 1 and self.parts == 1:
            if ranks == 1:
                if input.numel() == input.shape[1]:
                    raise _no_spread("a batch norm", 1, 2)
                return super().forward(input)
            self._check_input_dim(input)
            output, mean, variance = self._normalise_together(input)
        else:
            self._check_input_dim(input)
            output, mean, variance = self._normalise_apart(input, self._groups_here(input, ranks))
            if ranks > 1 and self.track_running_stats:
                mean, variance = sum_all(torch.stack([mean, variance])).div(ranks).unbind()
        if self.track_running_stats:
            self._remember(mean, variance)
        return output

    def extra_repr(self) -> str:
        """The options of ``nn.BatchNorm`` and the number of groups."""
        return f"{super().extra_repr()}, norm_groups={self.norm_groups}"

    def _groups_here(self, rows: Tensor, ranks: int) -> int:
        """How many of the groups lie on this rank."""
        groups = self.norm_groups
        if groups % (ranks * self.parts) and self.parts > 1:
            raise ConfigError(
                f"{self.parts} parts of a batch would divide its batch-norm groups, whose rows "
                "depend on each other",
                stage="batch norm",
                value={"norm_groups": groups, "parts": self.parts, "ranks": ranks},
                remedy=f"set norm_groups to a multiple of {ranks * self.parts}, or do not "
                "accumulate (train.accumulate=1)",
            )
        if groups % ranks:
            raise ConfigError(
                f"{groups} batch-norm groups cannot be dealt out to {ranks} ranks",
                stage="batch norm",
                value=groups,
                remedy=f"set norm_groups to 1 or a multiple of {ranks}",
            )
        here = groups // (ranks * self.parts)
        batch = len(rows) * ranks * self.parts
        if len(rows) % here:
            raise ConfigError(
                f"a batch of {batch} does not divide into {groups} batch-norm groups",
                stage="batch norm",
                value=batch,
                remedy=f"choose a batch size that is a multiple of {groups}, or fewer norm_groups",
            )
        if rows.numel() == here * rows.shape[1]:
            raise _no_spread("a batch-norm group", batch, 2 * groups)
        return here

    def _normalise_apart(self, rows: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise each run of rows alone; also the mean of their means and variances."""
        way = at_once if rows.is_cuda else by_turns
        if torch.compiler.is_compiling():
            way = by_broadcast
        return way(rows, groups, self.weight, self.bias, self.eps)

    def _normalise_together(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise by the statistics of all ranks' rows, with gradient through both sums."""
        over = [0, *range(2, rows.ndim)]
        shape = [1, -1] + [1] * (rows.ndim - 2)
        x = rows.to(torch.promote_types(rows.dtype, torch.float32))
        here = x.new_tensor([x.numel() / x.shape[1]])
        sums = sum_all(torch.cat([x.sum(over), here]), grad=True)
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = sum_all(centred.square().sum(over), grad=True) / count
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        output = centred * scale.view(shape)
        if self.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
            output = output + self.bias.view(shape)
        unbiased = variance.detach() * (count / (count - 1))
        return output.to(rows.dtype), mean.detach(), unbiased

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics a step, as ``nn.BatchNorm`` does."""
        if self.running_mean is None or self.running_var is None:
            return
        factor = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if factor is None:
                factor = 1.0 / float(self.num_batches_tracked)
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(value.to(running.dtype), float(factor or 0.0))


def _no_spread(what: str, batch: int, least: int) -> ConfigError:
    fewer = ", or fewer norm_groups" if least > 2 else ""
    return ConfigError(
        f"{what} sees one value a channel, which has no spread",
        stage="batch norm",
        value=batch,
        remedy=f"choose a batch size of at least {least}{fewer}",
    )


def by_turns(
    rows: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise runs of neighbouring rows one after the other: nothing is copied but the result.

    Args:
        rows: ``[b, c, ...]``.
        groups: how many runs; divides ``b``.
        weight: ``[c]`` scale.
        bias: ``[c]`` offset.
        eps: added to the variance.

    Returns:
        The rows, and the mean ``[c]`` of the groups' means and of their unbiased variances.
    """
    outputs: list[Tensor] = []
    kind = torch.promote_types(rows.dtype, torch.float32)
    means = torch.zeros(groups, rows.shape[1], dtype=kind, device=rows.device)
    variances = torch.ones_like(means)
    for part, mean, variance in zip(rows.chunk(groups), means, variances, strict=True):
        # With a momentum of 1 the "running" statistics become this group's own.
        outputs.append(functional.batch_norm(part, mean, variance, weight, bias, True, 1.0, eps))
    return torch.cat(outputs), means.mean(0), variances.mean(0)


def at_once(
    rows: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same in one operation, for a GPU, where launches cost more than copies.

    The channel of every group becomes a channel of its own: ``[b/g, g*c, ...]``.
    """
    last = rows.ndim > 2 and rows.movedim(1, -1).is_contiguous()
    c = rows.shape[1]
    # Channels last, all places are rows; each group's are neighbours either way.
    laid = rows.movedim(1, -1).flatten(0, -2) if last else rows
    wide = laid.unflatten(0, (groups, -1)).transpose(0, 1).flatten(1, 2)
    kind = torch.promote_types(rows.dtype, torch.float32)
    means = torch.zeros(groups * c, dtype=kind, device=rows.device)
    variances = torch.ones_like(means)
    scale = None if weight is None else weight.repeat(groups)
    offset = None if bias is None else bias.repeat(groups)
    done = functional.batch_norm(wide, means, variances, scale, offset, True, 1.0, eps)
    done = done.unflatten(1, (groups, c)).transpose(0, 1).flatten(0, 1)
    if last:
        done = done.unflatten(0, (len(rows), *rows.shape[2:])).movedim(-1, 1)
    return done, means.view(groups, c).mean(0), variances.view(groups, c).mean(0)


def by_broadcast(
    rows: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same spelt out, for a compiler to merge with what comes before and after it.

    Nothing is laid out anew: a compiled pass reads the rows twice, for their statistics and to
    normalise them. Eager PyTorch would write all that stands between.
    """
    kind = torch.promote_types(rows.dtype, torch.float32)
    apart = rows.unflatten(0, (groups, -1)).to(kind)
    over = [1, *range(3, apart.ndim)]
    variance, mean = torch.var_mean(apart, over, correction=0, keepdim=True)
    done = (apart - mean) * (variance + eps).rsqrt()
    shape = [-1] + [1] * (rows.ndim - 2)
    if weight is not None:
        done = done * weight.view(shape)
    if bias is not None:
        done = done + bias.view(shape)
    count = rows.numel() // (groups * rows.shape[1])
    unbiased = variance.detach() * (count / (count - 1))
    means, variances = (t.reshape(groups, -1).mean(0) for t in (mean.detach(), unbiased))
    return done.flatten(0, 1).to(rows.dtype), means, variances


class GroupBatchNorm1d(GroupBatchNorm, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` whose training statistics come from groups of the global batch.

    Args:
        num_features: channels ``c`` of ``[b, c]`` or ``[b, c, l]``.
        norm_groups: runs of neighbouring rows of the global batch that are normalised apart: 1
            for all together over all ranks, or a multiple of the number of ranks.
        eps: added to the variance.
        momentum: step of the running statistics; None averages over all batches. They take the
            mean over the groups, so they are equal on all ranks.
        affine: learn a scale and, with ``offset``, an offset.
        offset: False leaves the offset out (last layer of SimCLR's head).
        track_running_stats: keep the statistics that evaluation uses.
    """


class GroupBatchNorm2d(GroupBatchNorm, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose training statistics come from groups of the global batch.

    Args:
        num_features: channels ``c`` of ``[b, c, h, w]``.
        norm_groups: runs of neighbouring rows of the global batch that are normalised apart: 1
            for all together over all ranks, or a multiple of the number of ranks.
        eps: added to the variance.
        momentum: step of the running statistics; None averages over all batches. They take the
            mean over the groups, so they are equal on all ranks.
        affine: learn a scale and, with ``offset``, an offset.
        offset: False leaves the offset out.
        track_running_stats: keep the statistics that evaluation uses.
    """


class GroupBatchNorm3d(GroupBatchNorm, nn.BatchNorm3d):
    """``nn.BatchNorm3d`` whose training statistics come from groups of the global batch.

    Args:
        num_features: channels ``c`` of ``[b, c, t, h, w]``; a group holds whole clips.
        norm_groups: runs of neighbouring rows of the global batch that are normalised apart: 1
            for all together over all ranks, or a multiple of the number of ranks.
        eps: added to the variance.
        momentum: step of the running statistics; None averages over all batches. They take the
            mean over the groups, so they are equal on all ranks.
        affine: learn a scale and, with ``offset``, an offset.
        offset: False leaves the offset out.
        track_running_stats: keep the statistics that evaluation uses.
    """


class GroupBatchNormAct2d(GroupBatchNorm2d):
    """A :class:`GroupBatchNorm2d` with what timm's ``BatchNormAct2d`` applies after it.

    Args:
        num_features: channels ``c`` of ``[b, c, h, w]``.
        drop: applied to the normalised maps.
        act: applied after ``drop``.
        options: as of :class:`GroupBatchNorm2d`.
    """

    def __init__(
        self, num_features: int, *, drop: nn.Module, act: nn.Module, **options: Any
    ) -> None:
        super().__init__(num_features, **options)
        self.drop, self.act = drop, act

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise ``[b, c, h, w]``, then drop and activate."""
        return self.act(self.drop(super().forward(input)))


_KINDS: dict[str, Callable[..., GroupBatchNorm]] = {
    "BatchNorm1d": GroupBatchNorm1d,
    "BatchNorm2d": GroupBatchNorm2d,
    "BatchNorm3d": GroupBatchNorm3d,
    "BatchNormAct2d": GroupBatchNormAct2d,  # timm's, which is not there to be imported
}


def group_norms(net: nn.Module, norm_groups: int) -> None:
    """Let all batch norms of a network work over groups of the global batch.

    Args:
        net: changed in place; names, weights and statistics stay. Plain batch norms are known, and
            timm's with an activation.
        norm_groups: parts of the global batch that are normalised apart.

    Raises:
        ConfigError: another kind of batch norm, which would see the rows of its rank.
    """
    for path, parent in list(net.named_modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, GroupBatchNorm) or not _of_batch(part):
                continue
            kind = _KINDS.get(type(part).__name__)
            inner = dict(part.named_children())
            if kind is None or not isinstance(part, _BatchNorm) or inner.keys() - {"drop", "act"}:
                raise ConfigError(
                    f"{type(part).__name__} is a batch norm that cannot work in groups of the "
                    "global batch",
                    stage="build encoder",
                    value=f"{path}.{name}".lstrip("."),
                    remedy="choose an encoder with plain batch norms, or without any",
                )
            fresh = kind(
                part.num_features, norm_groups=norm_groups, eps=part.eps, momentum=part.momentum,
                affine=part.affine, track_running_stats=part.track_running_stats, **inner,
            )  # fmt: skip
            fresh.load_state_dict(part.state_dict())
            parent.add_module(name, fresh.train(part.training))


def _of_batch(part: nn.Module) -> bool:
    """Whether a module normalises by statistics of its batch; frozen and instance norms do not."""
    own = isinstance(part, _BatchNorm) or "running_var" in dict(part.named_buffers(recurse=False))
    return own and not isinstance(part, _InstanceNorm) and "Frozen" not in type(part).__name__
