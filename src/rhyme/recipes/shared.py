"""Parts that recipes have in common."""

from __future__ import annotations

from rhyme.encoders import BackboneConfig, HeadConfig
from rhyme.recipes.base import DataConfig
from rhyme.training import OptimizerConfig, ScheduleConfig, TrainConfig
from rhyme.views import ContrastTransform, ShiftCropTransform

WORLD_BACKBONE = BackboneConfig(name="small")
WORLD_HEAD = HeadConfig(layers=2, hidden_norm=True, out=64)
WORLD_TRANSFORM = ShiftCropTransform(size=24)
WORLD_DATA = DataConfig(cache_frames=4, cache_size=30)
WORLD_TRAIN = TrainConfig(
    steps=700,
    batch_size=128,
    optimizer=OptimizerConfig(name="adamw", lr=4e-3, weight_decay=1e-4),
    schedule=ScheduleConfig(name="cosine", warmup_steps=50),
    channels_last=True,
    log_every=20,
    checkpoint_every=200,
    probe_every=175,
)
"""Settings at which the generated world is learnt within a minute on two cores."""

FOLDER_BACKBONE = BackboneConfig(name="small", strides=(2, 2, 2, 2))
FOLDER_HEAD = HeadConfig(layers=2, hidden_norm=True, out=64)
FOLDER_TRANSFORM = ContrastTransform.moco_v2(size=64)
FOLDER_DATA = DataConfig(cache_frames=8, cache_size=72)
FOLDER_TRAIN = TrainConfig(
    steps=600,
    batch_size=64,
    optimizer=OptimizerConfig(name="adamw", lr=2e-3, weight_decay=1e-4),
    schedule=ScheduleConfig(name="cosine", warmup_steps=50),
    channels_last=True,
    log_every=20,
    checkpoint_every=200,
    probe_every=200,
)
"""Settings for a small folder of clips on a CPU: minutes, not hours."""

CIFAR_BACKBONE = BackboneConfig(name="resnet18", stem="cifar")
CIFAR_DATA = DataConfig(cache_frames=1, cache_size=32, augment="device")
"""Decoded once into memory (150 MB for 50,000 pictures), sent as bytes, augmented on the GPU."""
CIFAR_TRAIN = TrainConfig(
    epochs=200,
    batch_size=512,
    precision="bf16",
    channels_last=True,
    compile="auto",
    workers=4,
    log_every=50,
    checkpoint_every=2000,
)
"""The budget of 200 epochs on one GPU; each system brings its own optimiser.

Norms, activations and, with groups of batch norm, copies between layouts touch more memory than the
convolutions of maps this small; graphs take them together, where the run finds that to pay.
"""

CIFAR_CPU_BACKBONE = BackboneConfig(name="small", strides=(2, 2, 2, 2))
CIFAR_CPU_DATA = DataConfig(cache_frames=1, cache_size=32)
CIFAR_CPU_TRAIN = TrainConfig(
    epochs=12,
    batch_size=256,
    optimizer=OptimizerConfig(name="adamw", lr=2e-3, weight_decay=1e-4),
    schedule=ScheduleConfig(name="cosine", warmup_steps=40),
    channels_last=True,
    log_every=20,
    checkpoint_every=400,
)
"""Small pictures on two cores: three to four minutes of processor time for 10,000 of them."""

R2V2_BACKBONE = BackboneConfig(name="resnet50", norm_groups=8)
R2V2_HEAD = HeadConfig(layers=2, out=128)
R2V2_TRAIN = TrainConfig(
    epochs=200,
    batch_size=512,
    optimizer=OptimizerConfig(
        name="sgd", lr=0.06, momentum=0.9, weight_decay=1e-4, decay_norm_and_bias=True
    ),
    schedule=ScheduleConfig(name="cosine", per="epoch"),
    workers=16,
    channels_last=True,
    log_every=50,
    checkpoint_every=2000,
)
"""The published schedule: 8 GPUs, 200 epochs, cosine a whole epoch at a time, no warm-up."""
