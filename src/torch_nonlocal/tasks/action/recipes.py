"""Settings by name: what the papers trained with, and what small machines can do. docs/recipes.md tells of each.

The numbers are those of Wang et al., Non-local Neural Networks, CVPR 2018, section 4 and 5.1, and of the configurations
in PySlowFast. Published results are cited to be compared with; none has been reproduced here.
"""

import difflib
from dataclasses import dataclass, replace

import torch

from torch_nonlocal.tasks.action.network import DIGITS, IMAGENET, NONE, ActionSettings
from torch_nonlocal.training import TrainConfig

DIGITS_RECIPE = "digits"


@dataclass(frozen=True)
class Recipe:
    """Settings, where they are from, and what they were published to reach.

    Attributes:
        settings: what is trained.
        config: how; its learning rate is for its own batch_size, clips per update over all processes.
        source: where the numbers are from, or for which machine they are.
        published: results on the validation clips of Kinetics-400, top-1/top-5 in percent; "" where there are none.
        test: options of `nonlocal test` for the published protocol; "" for the usual ones.
        starts_from: the recipe whose trained weights this one must be given; "" if it starts by itself.
    """

    settings: ActionSettings
    config: TrainConfig
    source: str
    published: str = ""
    test: str = ""
    starts_from: str = ""


_PAPER_TEST = "--views 10 --crops full"
_SLOWFAST_TEST = "--views 10 --crops 3"
_PAPER_UPDATES = 400_000  # a tenth of the learning rate after 150,000 and 300,000: the default milestones
# Wang et al., tables 2c, 2f and 2g. Blocks: five, embedded Gaussian, in spacetime.
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
# Configurations of PySlowFast, 3 x 10 views; its zoo's weights are ported, so need not have been trained with them.
_SLOWFAST_8X8 = {
    ("c2d", 50, False): "", ("c2d", 50, True): "", ("i3d", 50, False): "73.5/90.8", ("i3d", 50, True): "74.0/91.1",
    ("i3d", 101, False): "", ("i3d", 101, True): "",
}  # fmt: skip
# Configurations of PySlowFast; results of video-nonlocal-net, from ImageNet too, with a schedule of its own.
_FROM_IMAGENET_8X8 = {
    ("c2d", 50, False): "71.9", ("c2d", 50, True): "74.4", ("i3d", 50, False): "73.4", ("i3d", 50, True): "74.7",
}  # fmt: skip
_WARMUP_8X8 = 34 / 196
_MILESTONES_8X8 = (44 / 118, 88 / 118)


def _of_papers() -> dict[str, Recipe]:
    """C2D and I3D, ResNet-50 and ResNet-101, with and without blocks: those that were published."""
    recipes = {}
    config = TrainConfig(steps=_PAPER_UPDATES, batch_size=64, lr=0.01, channels_last=True, workers=8)
    for case, published in _PAPER_32.items():
        source = "Wang et al. 2018, from ImageNet"
        recipes[_name(*case)] = Recipe(_network(*case), config, source, published, _PAPER_TEST)
    slow = replace(config, batch_size=16, lr=0.0025, freeze_bn=True)
    for case, published in _PAPER_128.items():
        settings = replace(_network(*case), frames="128x1", weights=NONE)
        source = "Wang et al. 2018, from 32 frames: --weights"
        recipes[_name(*case, "128f")] = Recipe(settings, slow, source, published, _PAPER_TEST, _name(*case))
    eight = replace(config, steps=None, epochs=196, nesterov=True, precise_bn=200)
    cosine = replace(eight, lr=0.1, schedule="cosine", warmup=_WARMUP_8X8)
    for case, published in _SLOWFAST_8X8.items():
        settings = replace(_eight(_network(*case)), weights=NONE)
        source = "PySlowFast, from scratch"
        recipes[_name(*case, "8x8")] = Recipe(settings, cosine, source, published, _SLOWFAST_TEST)
    steps = replace(eight, epochs=118, milestones=_MILESTONES_8X8)
    for case, published in _FROM_IMAGENET_8X8.items():
        source = "PySlowFast, from ImageNet"
        settings = _eight(_network(*case))
        recipes[_name(*case, "8x8-imagenet")] = Recipe(settings, steps, source, published, _SLOWFAST_TEST)
    return recipes


def _name(family: str, depth: int, blocks: bool, variant: str = "") -> str:
    return "-".join(part for part in (family, f"r{depth}", variant, "nl5" if blocks else "") if part)


def _network(family: str, depth: int, blocks: bool) -> ActionSettings:
    places = "paper-5" if blocks else NONE
    return ActionSettings(f"ours:{family}_resnet{depth}", "64-to-32", 224, places, weights=IMAGENET)


def _eight(settings: ActionSettings) -> ActionSettings:
    return replace(settings, network=f"{settings.network}_8x8", frames="8x8")


_LAPTOP = Recipe(
    ActionSettings(),
    TrainConfig(
        epochs=15,
        batch_size=8,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.01,
        schedule="one-cycle",
        freeze_bn=True,
        channels_last=True,
        workers=1,
    ),
    "no GPU: the small network, 8 frames 8 apart, 112 x 112 pixels, 8 clips an update",
)
_ONE_GPU = TrainConfig(
    epochs=30,
    batch_size=16,
    lr=0.0025,  # the paper's, for 16 clips instead of 64
    nesterov=True,
    schedule="cosine",
    warmup=0.1,
    precision="bf16",
    channels_last=True,
    freeze_bn=True,  # few clips at a time
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
        workers=0,  # a clip is drawn faster than it is sent
    ),
    "moving digits: a few minutes on two cores",
)

RECIPES: dict[str, Recipe] = {
    DIGITS_RECIPE: _DIGITS,
    "laptop": _LAPTOP,
    "gpu-8gb": Recipe(
        ActionSettings("ours:i3d_resnet50_8x8", "8x8", 224, "paper-5", weights=IMAGENET),
        replace(_ONE_GPU, accumulate=4),
        "one GPU of 8 to 12 GB, from ImageNet",
    ),
    "gpu-24gb": Recipe(
        ActionSettings("ours:i3d_resnet50", "64-to-32", 224, "paper-5", weights=IMAGENET),
        replace(_ONE_GPU, accumulate=2),
        "one GPU of 24 GB, from ImageNet",
    ),
    **_of_papers(),
}


def recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        ValueError: an unknown name; the message suggests.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), RECIPES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no recipe {name!r}; {hint}--recipe list shows all {len(RECIPES)}")


def settings_for(device: torch.device | None = None) -> tuple[ActionSettings, TrainConfig, str]:
    """Settings for clips of one's own that fit the machine, and why in words.

    The network is the one whose trained weights are installed with the package: a few clips of one's own do not train
    a network from random weights, and nothing is downloaded unasked.

    Args:
        device: default the first GPU, or the CPU.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        config = replace(_LAPTOP.config, batch_size=16, precision="bf16", workers=8)
        why = "a GPU: the small network, 8 frames 8 apart, 224 x 224 pixels, 16 clips an update, bf16"
        return replace(_LAPTOP.settings, crop=224), config, why
    return _LAPTOP.settings, _LAPTOP.config, _LAPTOP.source


def learning_rate_hint(config: TrainConfig, chosen: TrainConfig) -> str:
    """What to say of a learning rate that was chosen for another batch; "" if nothing.

    Args:
        config: as it will be trained.
        chosen: as the recipe has it.

    Reference: Goyal et al., Accurate, Large Minibatch SGD, 2017 (linear scaling).
    """
    if config.lr != chosen.lr or config.batch_size == chosen.batch_size:
        return ""
    scaled = config.lr * config.batch_size / chosen.batch_size
    rule = f"; in proportion it would be --lr {scaled:.3g}" if config.optimizer == "sgd" else ""
    return f"lr {config.lr:g} was chosen for {chosen.batch_size} clips an update, here are {config.batch_size}{rule}"
