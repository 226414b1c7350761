"""Macro F1 on classes of unequal size: the automatic choice of `balance` and `metric` against none, and the sampler.

    python benchmarks/unequal.py

Textured patches move up, left or right on a textured background, with noise: the class is told by motion alone. The
training clips are 60, 20 and 6, ten to one; validation and test clips have the same shares. A small 3D network is
trained from random weights with each setting and several seeds. It takes about ten seconds of processor time per run.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from torch_nonlocal.data.dataset import item_generator
from torch_nonlocal.models.inputs import IMAGENET, inputs_of
from torch_nonlocal.tasks.action.balance import ClassCounts, balanced
from torch_nonlocal.tasks.action.evaluation import predict
from torch_nonlocal.tasks.action.metrics import score
from torch_nonlocal.tasks.action.settings import ActionSettings
from torch_nonlocal.tasks.action.task import ActionTask
from torch_nonlocal.training import TrainConfig, fit, load_weights_file

DIRECTIONS = {"up": (-1, 0), "left": (0, -1), "right": (0, 1)}
COUNTS = {"train": (60, 20, 6), "val": (60, 20, 6), "test": (600, 200, 60)}
FRAMES, SIZE, PATCH, SPEED = 6, 32, 16, 2
SETTINGS: dict[str, dict[str, Any]] = {
    "none, accuracy": {"balance": "none", "metric": "accuracy"},
    "none, macro_f1": {"balance": "none"},
    "loss, macro_f1": {"balance": "loss"},
    "sampler, macro_f1 (auto)": {},
}
METRICS = ("macro_f1", "balanced_accuracy", "top1")


def texture(side: int, generator: torch.Generator) -> Tensor:
    """Smooth random colors: (3, side, side) in [0, 1]."""
    coarse = torch.rand(1, 3, side // 4, side // 4, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bicubic")[0].clamp(0, 1)


def moving(direction: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A patch that moves by `SPEED` pixels per frame: (3, FRAMES, SIZE, SIZE) in [0, 1]."""
    background, patch = texture(SIZE, generator), texture(PATCH, generator)
    row, column = torch.randint(0, SIZE, (2,), generator=generator).tolist()
    frames = []
    for number in range(FRAMES):
        rows = (torch.arange(PATCH) + row + SPEED * direction[0] * number) % SIZE
        columns = (torch.arange(PATCH) + column + SPEED * direction[1] * number) % SIZE
        frames.append(background.clone())
        frames[-1][:, rows[:, None], columns] = patch
    return torch.stack(frames, 1)


class MovingPatches(Dataset[tuple[Tensor, int, int]]):
    """The clips of a split, in memory; noise and a shift along both axes are drawn anew in every epoch."""

    def __init__(self, split: str, noise: float, seed: int) -> None:
        self.labels = [label for label, count in enumerate(COUNTS[split]) for _ in range(count)]
        directions, part = list(DIRECTIONS.values()), list(COUNTS).index(split)
        made = enumerate(self.labels)
        self.clips = [moving(directions[label], item_generator(part, -1, index)) for index, label in made]
        self.noise, self.seed, self.epoch = noise, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the random draws."""
        self.epoch = epoch

    def fingerprint(self) -> dict[str, Any]:
        """The parameters that determine the clips."""
        return {"clips": len(self.labels), "noise": self.noise, "seed": self.seed}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """A clip (3, T, H, W) uint8, its label and its index."""
        generator = item_generator(self.seed, self.epoch, index)
        shift = torch.randint(0, SIZE, (2,), generator=generator).tolist()
        clip = self.clips[index].roll(shift, (2, 3))
        clip = clip + self.noise * torch.randn(clip.shape, generator=generator)
        return (255 * clip.clamp(0, 1)).round().to(torch.uint8), self.labels[index], index


def network(seed: int) -> nn.Sequential:
    """Three 3D convolutions, an average and a linear layer."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inner, outer, stride in ((3, 16, 2), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv3d(inner, outer, 3, (1, stride, stride), 1, bias=False), nn.BatchNorm3d(outer), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, len(DIRECTIONS)))
    setattr(model, "inputs", IMAGENET)  # noqa: B010 (typed as a tensor or module)
    return model


def result(changes: dict[str, Any], seed: int, noise: float, epochs: int) -> dict[str, float]:
    """Train with a setting and a seed, and test the selected weights on the test split."""
    train, validation, test = (
        MovingPatches(split, noise, 10 * seed + number) for number, split in enumerate(("train", "val", "test"))
    )
    counts = ClassCounts([(label,) for label in train.labels], tuple(DIRECTIONS), False)
    settings, _ = balanced(replace(ActionSettings(flip=False), **changes), counts)
    config = TrainConfig(
        epochs=epochs, batch_size=8, optimizer="adamw", lr=3e-3, weight_decay=0.01, schedule="one-cycle",
        seed=seed, workers=0, attention_items=0,
    )  # fmt: skip
    model = network(seed)
    views: Any = validation
    task = ActionTask(model, train, settings, config, counts.classes, views, str, counts=counts)
    with tempfile.TemporaryDirectory() as folder:
        weights = fit(task, config, folder, log=lambda line: None).weights
        model.load_state_dict(load_weights_file(weights)["model"])
    tested: Any = test
    probabilities, labels, _ = predict(model, tested, batch=32, workers=0, prepare=inputs_of(model).normalize)
    return score(probabilities, labels).plain()


def main() -> None:
    """Train all settings with all seeds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviation of the noise of each pixel")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| balance, metric | {' | '.join(METRICS)} |\n|---|{'---|' * len(METRICS)}")
    for name, changes in SETTINGS.items():
        found = [result(changes, seed, options.noise, options.epochs) for seed in range(options.seeds)]
        row = [[one[metric] for one in found] for metric in METRICS]
        cells = [f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})" for values in row]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
