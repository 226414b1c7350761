"""Recipes of re-identification. This module does not import torch."""

from dataclasses import replace

from torch_nonlocal.tasks.base import Recipe
from torch_nonlocal.tasks.reid.settings import IMAGENET, NONE, PERSONS, ReidSettings
from torch_nonlocal.training.config import TrainConfig

ReidRecipe = Recipe[ReidSettings]
BUILT_IN, SMALL, LARGE = "reid", "reid-small", "reid-nvan"
"""Recipes chosen automatically: for the built-in data, for other data on a CPU, and on a GPU."""

_PERSONS = ReidSettings(
    network=PERSONS, frames="uniform-8", height=48, width=24, pad=0, erase=0.0, flip=False, held_out=0.0
)
_PERSONS_CONFIG = TrainConfig(
    steps=400,
    batch_size=64,
    optimizer="adamw",
    lr=4e-3,
    weight_decay=0.01,
    schedule="one-cycle",
    clip_grad=5.0,
    eval_every=200,
    workers=1,
)
_SMALL = TrainConfig(
    epochs=60,
    batch_size=32,
    optimizer="adamw",
    lr=7e-4,
    weight_decay=5e-4,
    schedule="one-cycle",
    clip_grad=5.0,
    eval_every=100,
    workers=1,
)
_RESNET = ReidSettings(
    network="torchvision:resnet50",
    frames="uniform-8",
    height=256,
    width=128,
    non_local="nvan",
    weights=IMAGENET,
    pad=10,
    held_out=0.0,
)
_RESNET_CONFIG = TrainConfig(
    epochs=200,
    batch_size=32,
    optimizer="adamw",
    lr=1e-4,
    weight_decay=5e-4,
    schedule="cosine",
    warmup=0.05,
    precision="bf16",
    channels_last="auto",
    workers=8,
)
_PLAIN_PERSONS, _PLAIN_RESNET = replace(_PERSONS, non_local=NONE), replace(_RESNET, non_local=NONE)
_ON_TWO_CORES = "two cores, built-in handwritten persons"
_ON_CPU = "a CPU: EfficientNet-Lite0 from ImageNet, 128 x 64 pixels"
_ON_GPU = "one GPU: ResNet-50 from ImageNet, 256 x 128 pixels"
_ON_GPU_3D = "one GPU: 3D ResNet-50 from ImageNet, 256 x 128 pixels"
_NVAN = "blocks placed as in NVAN"  # Liu et al., BMVC 2019

RECIPES: dict[str, ReidRecipe] = {
    BUILT_IN: Recipe(_PERSONS, _PERSONS_CONFIG, f"{_ON_TWO_CORES}; one block"),
    "reid-plain": Recipe(_PLAIN_PERSONS, _PERSONS_CONFIG, f"{_ON_TWO_CORES}; no blocks"),
    SMALL: Recipe(ReidSettings(), _SMALL, f"{_ON_CPU}; two blocks", needs_data=True),
    "reid-small-plain": Recipe(ReidSettings(non_local=NONE), _SMALL, f"{_ON_CPU}; no blocks", needs_data=True),
    LARGE: Recipe(_RESNET, _RESNET_CONFIG, f"{_ON_GPU}; {_NVAN}", needs_data=True),
    "reid-resnet50": Recipe(_PLAIN_RESNET, _RESNET_CONFIG, f"{_ON_GPU}; no blocks", needs_data=True),
    "reid-3d-nvan": Recipe(
        replace(_RESNET, temporal="factorized"), _RESNET_CONFIG, f"{_ON_GPU_3D}; {_NVAN}", needs_data=True
    ),
    "reid-3d": Recipe(
        replace(_PLAIN_RESNET, temporal="factorized"), _RESNET_CONFIG, f"{_ON_GPU_3D}; no blocks", needs_data=True
    ),
}
