"""Action recognition: from a folder of clips to a tested network.

`settings_for` chooses network, frames and crop for the machine; `train` trains, and goes on where it was; `evaluate`
scores. The settings go with the weights, so a file of weights is all that testing needs.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.clip_list import ClipList
from torch_nonlocal.data.clips import train_and_test
from torch_nonlocal.data.dataset import ClipDataset, ViewDataset, collate_clips
from torch_nonlocal.insertion import insert
from torch_nonlocal.insertion.inflation import inflate
from torch_nonlocal.models.named import build
from torch_nonlocal.models.packaged import MEAN, STD, efficientnet_lite0
from torch_nonlocal.tasks.scores import Scores, score
from torch_nonlocal.training import Result, TrainConfig, fit, load_weights_file
from torch_nonlocal.video.sampling import parse_schedule
from torch_nonlocal.video.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, TrainTransform

SMALL = "small"
_SMALL_TIME = [f"blocks.{stage}.*.conv_dw" for stage in range(2, 7)]  # where maps are small: a third of the time
_SMALL_PLACES = ("blocks.2.1", "blocks.4.2")
_VALIDATION_VIEWS = 2


@dataclass(frozen=True)
class ActionSettings:
    """What is trained, and on what: plain values, kept with the weights.

    Attributes:
        network: "small" (EfficientNet-Lite0 with its ImageNet weights, inflated), or a name that `models.named.build`
            knows, whose last layer is replaced.
        frames: schedule of a clip's frames, such as "8x8" or "64-to-32".
        crop: side of the network's input, in pixels.
        non_local: where blocks go, as `nl.insert` takes it; "auto" for two in the small network and "paper-5" in
            others; "none" for none.
        flip: turn half of the training clips left to right; wrong where direction is the label.
        weights: "none", "imagenet", or a file for `nl.create_model`; the small network has its own.
    """

    network: str = SMALL
    frames: str = "8x8"
    crop: int = 112
    non_local: str = "auto"
    flip: bool = True
    weights: str = "none"


def settings_for(device: torch.device | None = None) -> tuple[ActionSettings, TrainConfig, str]:
    """Settings that fit the machine, and why in words.

    Args:
        device: default the first GPU, or the CPU.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        config = TrainConfig(epochs=30, batch_size=16, lr=0.01, precision="bf16", channels_last=True, workers=8)
        why = "a GPU: I3D ResNet-50, 8 frames 8 apart, 224 x 224 pixels, 16 clips an update, bf16"
        return ActionSettings("ours:i3d_resnet50_8x8", crop=224), config, why
    config = TrainConfig(
        epochs=15,
        batch_size=8,
        optimiser="adamw",
        lr=1e-3,
        weight_decay=0.01,
        schedule="one-cycle",
        freeze_bn=True,
        channels_last=True,
        workers=1,
    )
    why = "no GPU: the small network, 8 frames 8 apart, 112 x 112 pixels, 8 clips an update"
    return ActionSettings(), config, why


def network(settings: ActionSettings, classes: int) -> nn.Module:
    """The network of these settings, with its blocks and a last layer of so many classes.

    Raises:
        ValueError: an unknown network, a place that is not there, or a network without a last linear layer.
        ImportError: what it needs is not installed.
    """
    if settings.network == SMALL:
        model = inflate(efficientnet_lite0(), at=_SMALL_TIME)
        model.classifier = nn.Linear(1280, classes)  # its scores are means over time
    elif settings.network.startswith("ours:"):
        from torch_nonlocal.models.registry import create_model

        weights = None if settings.weights == "none" else settings.weights
        model = create_model(settings.network.removeprefix("ours:"), num_classes=classes, weights=weights)
    else:
        model = build(settings.network, pretrained=settings.weights == "imagenet")
        _replace_last_linear(model, classes)
    if settings.non_local != "none":
        small = settings.network == SMALL
        places = (list(_SMALL_PLACES) if small else "paper-5") if settings.non_local == "auto" else settings.non_local
        length, _ = parse_schedule(settings.frames)
        insert(model, places, example_input=torch.zeros(1, 3, length, settings.crop, settings.crop), subsample=2)
    return model


def train(
    data: Path,
    run_dir: Path,
    settings: ActionSettings,
    config: TrainConfig,
    *,
    on_error: str = "skip",
    log: Callable[[str], None] | None = None,
) -> Result:
    """Train on a folder or list of clips; the same call again goes on where it was.

    Clips without a split of their own: a fifth of each class is held out, always the same ones, and never trained on.

    Args:
        data: as for `data.clips.find_clips`.
        run_dir: folder of the run; broken clips are listed in its broken.jsonl.
        settings: what is trained.
        config: how.
        on_error: "skip" or "fail" for clips that cannot be read.
        log: gets messages.

    Raises:
        ValueError: data without clips or with one class, settings that do not fit.
        ImportError: an extra is not installed.
    """
    training, held_out = train_and_test(data, on_error=on_error)  # pyright: ignore[reportArgumentType]
    if len(training.classes) < 2:
        raise ValueError(f"{data}: clips of one class, {', '.join(map(repr, training.classes))}; expected two or more")
    run_dir.mkdir(parents=True, exist_ok=True)
    broken = BrokenClips(run_dir / "broken.jsonl")
    mean, std = _colours(settings)
    sample = parse_schedule(settings.frames)
    transform = TrainTransform(crop=settings.crop, flip=settings.flip, mean=mean, std=std)
    clips = ClipDataset(training, sample, transform, seed=config.seed, on_error=on_error, broken=broken)  # pyright: ignore[reportArgumentType]
    torch.manual_seed(config.seed)
    model = network(settings, len(training.classes))

    def validate(tested: nn.Module) -> dict[str, float]:
        views = _views(held_out, settings, _VALIDATION_VIEWS, 1, on_error, broken)
        probabilities, labels, _ = predict(tested, views, batch=config.batch_size, workers=config.workers)
        scores = score(probabilities, labels)
        return {"accuracy": scores.top1, "mean_class": scores.mean_class}

    return fit(
        model,
        clips,
        config,
        run_dir,
        evaluate=validate if len(held_out) else None,
        collate=collate_clips,
        names=lambda index: training.name(training.clips[index]),
        about={"task": "action", **asdict(settings), "classes": list(training.classes)},
        log=log,
    )


@dataclass(frozen=True)
class Tested:
    """A test's outcome.

    Attributes:
        scores: the figures.
        clips: what was tested.
        indices: which of the clips were readable, (N,) indices into `clips`.
        probabilities: of each of those, (N, classes).
        labels: true classes, (N,).
        broken: clips that could not be read.
    """

    scores: Scores
    clips: ClipList
    indices: Tensor
    probabilities: Tensor
    labels: Tensor
    broken: BrokenClips


def load(weights: Path) -> tuple[nn.Module, ActionSettings, tuple[str, ...]]:
    """A trained network in eval mode, its settings and class names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not weights of this task.
    """
    held = load_weights_file(weights)
    about = dict(held["about"])
    if about.pop("task", None) != "action":
        raise ValueError(f"{weights}: not weights of `nonlocal train action`")
    classes = tuple(about.pop("classes"))
    settings = ActionSettings(**about)
    model = network(ActionSettings(**{**about, "weights": "none"}), len(classes))
    model.load_state_dict(held["model"])
    return model.eval(), settings, classes


def evaluate(
    weights: Path,
    data: Path,
    *,
    views: int = 10,
    crops: Any = 3,
    batch: int = 8,
    workers: int = 1,
    on_error: str = "skip",
) -> Tested:
    """Score a trained network on the held-out clips of a folder or list.

    Softmax scores are averaged over `views` clips of each video and `crops` crops of each.

    Args:
        weights: checkpoints/best.pt of a run.
        data: as for `train`: its test or validation split, or the fifth that training held out.
        views: clips of a video, evenly spread.
        crops: 1, 3, or "full".
        batch: crops at a time.
        workers: processes that decode.
        on_error: "skip" or "fail" for clips that cannot be read.

    Raises:
        ValueError: wrong weights, or data of other classes.
    """
    model, settings, classes = load(weights)
    _, held_out = train_and_test(data, on_error=on_error)  # pyright: ignore[reportArgumentType]
    if held_out.classes != classes:
        raise ValueError(
            f"{data} has {len(held_out.classes)} classes ({', '.join(held_out.classes[:5])} ...), "
            f"{weights} was trained on {len(classes)} ({', '.join(classes[:5])} ...)"
        )
    broken = BrokenClips()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = _views(held_out, settings, views, crops, on_error, broken)
    probabilities, labels, indices = predict(model.to(device), loaded, batch=batch, workers=workers)
    return Tested(score(probabilities, labels), held_out, indices, probabilities, labels, broken)


@torch.no_grad()
def predict(model: nn.Module, views: ViewDataset, *, batch: int, workers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax scores of each readable video, averaged over its views and crops.

    Returns:
        Scores (N, K), labels (N,) and indices (N,) into the views' clips, on the CPU.
    """
    device = next(model.parameters()).device
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    labels: dict[int, int] = {}
    for clips, classes, indices in DataLoader(views, batch_size=batch, num_workers=workers, collate_fn=collate_clips):
        for part, own, which in zip(clips.split(batch), classes.split(batch), indices.split(batch), strict=True):
            if not part.numel():
                continue
            for row, label, index in zip(
                model(part.to(device)).float().softmax(1).cpu(), own.tolist(), which.tolist(), strict=True
            ):
                sums[index] = sums[index] + row if index in sums else row
                counts[index], labels[index] = counts.get(index, 0) + 1, label
    if not sums:
        raise ValueError("none of the clips to test can be read")
    order = sorted(sums)
    probabilities = torch.stack([sums[index] / counts[index] for index in order])
    return probabilities, torch.tensor([labels[index] for index in order]), torch.tensor(order)


def _views(
    clips: ClipList, settings: ActionSettings, views: int, crops: Any, on_error: Any, broken: BrokenClips
) -> ViewDataset:
    mean, std = _colours(settings)
    transform = EvalTransform(crop=settings.crop, crops=crops, mean=mean, std=std)
    return ViewDataset(clips, parse_schedule(settings.frames), transform, views=views, on_error=on_error, broken=broken)


def _colours(settings: ActionSettings) -> tuple[Any, Any]:
    if settings.network == SMALL:
        return (MEAN,) * 3, (STD,) * 3
    return IMAGENET_MEAN, IMAGENET_STD


def _replace_last_linear(model: nn.Module, classes: int) -> None:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise ValueError(f"{type(model).__name__} has no linear layer to replace by one of {classes} classes")
    parent, _, child = names[-1].rpartition(".")
    last = model.get_submodule(names[-1])
    setattr(model.get_submodule(parent), child, nn.Linear(last.in_features, classes))  # pyright: ignore[reportArgumentType]
