"""Recipes of action recognition: the training settings of papers, and settings for small machines.

docs/recipes.md describes each. The numbers are those of Wang et al., Non-local Neural Networks, CVPR 2018, sections 4
and 5.1, and of the configurations in PySlowFast. Published results (top-1/top-5 accuracy in percent on the validation
clips of Kinetics-400) are cited for comparison; none has been reproduced here. This module does not import torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch_nonlocal.tasks.action.settings import AUTO, DIGITS, IMAGENET, NONE, OURS, ActionSettings
from torch_nonlocal.tasks.base import Recipe
from torch_nonlocal.training.config import TrainConfig

if TYPE_CHECKING:
    import torch

ActionRecipe = Recipe[ActionSettings]
DIGITS_RECIPE = "digits"

_PAPER_TEST = "--views 10 --crops full"
_SLOWFAST_TEST = "--views 10 --crops 3"
_PAPER_STEPS = 400_000  # learning rate times 0.1 after 150,000 and 300,000 steps: the default milestones
# Wang et al., tables 2c, 2f and 2g: without blocks, or with five embedded Gaussian blocks in spacetime.
_PAPER_32 = {
    ("c2d", 50, False): "71.8/89.7", ("c2d", 50, True): "73.8/91.0",
    ("i3d", 50, False): "73.3/90.7", ("i3d", 50, True): "74.9/91.6",
    ("c2d", 101, False): "73.1/91.0", ("c2d", 101, True): "75.1/91.7",
    ("i3d", 101, False): "74.4/91.1", ("i3d", 101, True): "76.0/92.1",
}  # fmt: skip
_PAPER_128 = {
    ("c2d", 50, False): "73.8/91.2", ("i3d", 50, False): "74.9/91.7", ("i3d", 50, True): "76.5/92.6",
    ("c2d", 101, False): "75.3/91.8", ("i3d", 101, False): "76.4/92.7", ("i3d", 101, True): "77.7/93.3",
}  # fmt: skip
# Configurations of PySlowFast, 3 x 10 views. The weights in its model zoo are ported: they were not necessarily trained
# with these configurations.
_SLOWFAST_8X8 = {
    ("c2d", 50, False): "", ("c2d", 50, True): "", ("i3d", 50, False): "73.5/90.8", ("i3d", 50, True): "74.0/91.1",
    ("i3d", 101, False): "", ("i3d", 101, True): "",
}  # fmt: skip
# Configurations of PySlowFast; results of video-nonlocal-net, which also starts from ImageNet weights, but has another
# schedule.
_FROM_IMAGENET_8X8 = {
    ("c2d", 50, False): "71.9", ("c2d", 50, True): "74.4", ("i3d", 50, False): "73.4", ("i3d", 50, True): "74.7",
}  # fmt: skip
_WARMUP_8X8 = 34 / 196
_MILESTONES_8X8 = (44 / 118, 88 / 118)


def _published() -> dict[str, ActionRecipe]:
    """C2D and I3D with ResNet-50 and ResNet-101, with and without blocks, in the combinations that were published."""
    recipes = {}
    config = TrainConfig(steps=_PAPER_STEPS, batch_size=64, lr=0.01, channels_last=True, workers=8)
    for case, published in _PAPER_32.items():
        source = "Wang et al. 2018, from ImageNet"
        recipes[_name(*case)] = Recipe(_settings(*case), config, source, published, _PAPER_TEST, needs_data=True)
    slow = replace(config, batch_size=16, lr=0.0025, freeze_bn=True)
    for case, published in _PAPER_128.items():
        settings = replace(_settings(*case), frames="128x1", weights=NONE)
        source = "Wang et al. 2018, from 32 frames: --weights"
        recipes[_name(*case, "128f")] = Recipe(
            settings, slow, source, published, _PAPER_TEST, starts_from=_name(*case), needs_data=True
        )
    eight = replace(config, steps=None, epochs=196, nesterov=True, precise_bn=200)
    cosine = replace(eight, lr=0.1, schedule="cosine", warmup=_WARMUP_8X8)
    for case, published in _SLOWFAST_8X8.items():
        settings = replace(_eight_frames(_settings(*case)), weights=NONE)
        source = "PySlowFast, from scratch"
        recipes[_name(*case, "8x8")] = Recipe(settings, cosine, source, published, _SLOWFAST_TEST, needs_data=True)
    steps = replace(eight, epochs=118, milestones=_MILESTONES_8X8)
    for case, published in _FROM_IMAGENET_8X8.items():
        settings = _eight_frames(_settings(*case))
        source = "PySlowFast, from ImageNet"
        recipes[_name(*case, "8x8-imagenet")] = Recipe(
            settings, steps, source, published, _SLOWFAST_TEST, needs_data=True
        )
    return recipes


def _name(family: str, depth: int, blocks: bool, variant: str = "") -> str:
    return "-".join(part for part in (family, f"r{depth}", variant, "nl5" if blocks else "") if part)


def _settings(family: str, depth: int, blocks: bool) -> ActionSettings:
    non_local = "paper-5" if blocks else NONE
    published: dict[str, Any] = {"weights": IMAGENET, "balance": NONE, "metric": "accuracy"}
    return ActionSettings(f"{OURS}{family}_resnet{depth}", "64-to-32", 224, non_local, **published)


def _eight_frames(settings: ActionSettings) -> ActionSettings:
    return replace(settings, network=f"{settings.network}_8x8", frames="8x8")


_LAPTOP = Recipe(
    ActionSettings(frames=AUTO),
    TrainConfig(
        epochs=24,
        batch_size=8,
        optimizer="adamw",
        lr=3e-4,  # 1e-3 leaves the accuracy at chance
        weight_decay=0.01,
        schedule="one-cycle",
        channels_last="auto",
        workers=1,
    ),
    "no GPU: the small network, 8 frames, 112 x 112 pixels, batch size 8",
    needs_data=True,
)
_ONE_GPU = TrainConfig(
    epochs=30,
    batch_size=16,
    lr=0.0025,  # the paper's, scaled linearly from batch size 64
    nesterov=True,
    schedule="cosine",
    warmup=0.1,
    precision="bf16",
    channels_last=True,
    freeze_bn=True,  # few clips per forward pass
    workers=8,
)
_DIGITS = Recipe(
    ActionSettings(DIGITS, frames="8x1", crop=32, flip=False),
    TrainConfig(
        epochs=18,
        batch_size=32,
        optimizer="adamw",
        lr=1.5e-3,
        weight_decay=0.01,
        schedule="one-cycle",
        clip_grad=1.0,
        workers=0,  # drawing a clip takes less time than sending it between processes
    ),
    "moving digits: a few minutes on two cores",
)

RECIPES: dict[str, ActionRecipe] = {
    DIGITS_RECIPE: _DIGITS,
    "laptop": _LAPTOP,
    "gpu-8gb": Recipe(
        ActionSettings(f"{OURS}i3d_resnet50_8x8", "8x8", 224, "paper-5", weights=IMAGENET),
        replace(_ONE_GPU, accumulate=4),
        "one GPU of 8 to 12 GB, from ImageNet",
        needs_data=True,
    ),
    "gpu-24gb": Recipe(
        ActionSettings(f"{OURS}i3d_resnet50", "64-to-32", 224, "paper-5", weights=IMAGENET),
        replace(_ONE_GPU, accumulate=2),
        "one GPU of 24 GB, from ImageNet",
        needs_data=True,
    ),
    **_published(),
}


def hardware_recipe(device: torch.device | None = None) -> ActionRecipe:
    """The recipe for videos of your own on this hardware.

    It fine-tunes the network whose ImageNet weights are installed with the package: a few clips do not train a network
    from random weights, and nothing is downloaded.

    Args:
        device: where to train; by default the first GPU, or the CPU.
    """
    import torch  # not at the top: command-line help lists the recipes without torch

    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type != "cuda":
        return _LAPTOP
    return replace(
        _LAPTOP,
        settings=replace(_LAPTOP.settings, crop=224),
        config=replace(_LAPTOP.config, batch_size=16, precision="bf16", workers=8),
        source="a GPU: the small network, 8 frames, 224 x 224 pixels, batch size 16, bf16",
    )
