"""Pictures for a report on an encoder with a series head: clips, shuffled copies, segments."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rhyme.catalog import Catalog
from rhyme.encoders import EncoderPackage, Head, InferencePlan, untrained
from rhyme.evaluation.heads import heads_of
from rhyme.loading import inference_batches
from rhyme.objectives import calibrate_segments, shuffle_segments
from rhyme.report import Frame, SegmentStrip
from rhyme.tasks import encode
from rhyme.tasks.clip_segments import other_orders
from rhyme.views import clip_sampling

SERIES = "series"
CLIPS, FRAMES = 6, 4


@torch.inference_mode()
def draw_segments(
    package: EncoderPackage, catalog: Catalog, *, seed: int = 0, device: str = "cpu"
) -> list[SegmentStrip]:
    """Clips of held-out items in segments, beside an untrained encoder.

    Args:
        package: the encoder.
        catalog: held-out items.
        seed: picks items and orders.
        device: where the encoders run.

    Returns:
        Up to six strips, one an item, of the clip in its middle; none for an encoder that gives
        its segments no vectors.
    """
    head = package.heads.get(SERIES)
    if head is None or head.config.blocks < 2 or not package.module.reads_clips:
        return []
    chosen = np.sort(np.random.default_rng([seed, 3]).permutation(len(catalog))[:CLIPS])
    items, plan, s = catalog.select(indices=chosen), package.plan, head.config.blocks
    codes, names = items.labels() if items.label_column is not None else (None, [])
    orders = torch.from_numpy(other_orders(np.asarray(items.facts().id), s, seed))
    sampling = clip_sampling(
        "linspace1", frames=plan.frames, stride=plan.stride, spacing=plan.spacing
    )
    encoders = {
        name: (module.eval().to(device), heads_of(package, name)[SERIES].eval().to(device))
        for name, module in (("trained", package.module), ("untrained/0", untrained(package, 0)))
    }
    strips: list[SegmentStrip] = []
    for batch in inference_batches(items, plan, clips=sampling.of(items.facts()), batch_size=CLIPS):
        clips, order = batch.pixels.to(device), orders[batch.rows]
        found = {
            name: _similarity(module, series, clips, order.to(device))
            for name, (module, series) in encoders.items()
        }
        for k, row in enumerate(batch.rows.tolist()):
            label = "" if codes is None or codes[row] < 0 else names[int(codes[row])]
            file, group = items.item(row).path, items.item(row).group
            strips.append(
                SegmentStrip(
                    clip=[
                        Frame(pixels=pixels, file=file, group=group, label=label)
                        for pixels in _shown(batch.pixels[k], plan, s)
                    ],
                    order=order[k].tolist(),
                    trained=found["trained"][k],
                    untrained=found["untrained/0"][k],
                )
            )
    return strips


def _similarity(module: nn.Module, head: Head, clips: Tensor, order: Tensor) -> NDArray[np.float32]:
    """Cosines ``[m, s, s]`` of the segments of clips with those of their shuffled copies."""
    s = order.shape[1]
    plain = head(encode(module, clips)).unflatten(1, (s, -1))
    other = head(encode(module, shuffle_segments(clips, order))).unflatten(1, (s, -1))
    return (plain @ calibrate_segments(other, order).mT).float().cpu().numpy()


def _shown(clip: Tensor, plan: InferencePlan, s: int) -> list[NDArray[np.uint8]]:
    """Some frames of each segment, equally many, as the encoder saw them."""
    each = len(clip) // s
    some = np.unique(np.linspace(0, each - 1, min(each, FRAMES)).round().astype(int))
    index = [i * each + int(k) for i in range(s) for k in some]
    mean, std = (torch.tensor(v)[:, None, None] for v in (plan.mean, plan.std))
    levels = ((clip[index] * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return [np.ascontiguousarray(x.permute(1, 2, 0).numpy()) for x in levels]
