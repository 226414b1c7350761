"""A model and a data set as small as possible that use everything an interruption could disturb."""

import random
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import torch_nonlocal as nl
from torch_nonlocal.training import Metric, Task, TrainConfig, fit

CLASSES = 3


class TinyClips(Dataset):
    """Clips (1, 2, 5, 5) with noise from three random generators, and a brightness that follows the epoch."""

    def __init__(self, clips=13, *, augment=True, dtype=torch.float32, on_read=None):
        generator = torch.Generator().manual_seed(7)
        self.clips = torch.randn(clips, 1, 2, 5, 5, generator=generator, dtype=dtype)
        self.augment, self.on_read, self.epoch = augment, on_read, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        clip = self.clips[index]
        if self.augment:
            noise = torch.randn(()) + random.random() + np.random.random()
            clip = clip * (1 + self.epoch / 10) + noise.to(clip)
        if self.on_read is not None:
            clip = self.on_read(index, clip)
        return clip, index % CLASSES


class TinyTask(Task):
    """Classifies `TinyClips`. `evaluate` and `loss_of` (output, labels) replace the task's own; None for no metric."""

    def __init__(self, model, data, *, about=None, evaluate="accuracy", loss_of=F.cross_entropy, names=None):
        super().__init__(model, data, about=about)
        self.metric = Metric("accuracy") if evaluate else None
        self._evaluate = accuracy if evaluate == "accuracy" else evaluate
        self._loss_of, self._names = loss_of, names

    def loss(self, model, batch):
        clips, labels = batch
        output = model(clips)
        return {"loss": self._loss_of(output, labels), "accuracy": (output.argmax(1) == labels).float().mean()}

    def evaluate(self, model):
        return self._evaluate(model) if self._evaluate else {}

    def item_name(self, index):
        return self._names(index) if self._names else super().item_name(index)


def network(norm="batch", dtype=torch.float32, dropout=0.2):
    """Convolution, block, norm, dropout, linear: (B, 1, 2, 5, 5) -> (B, 3)."""
    torch.manual_seed(3)
    norms = {"batch": nn.BatchNorm3d(4), "group": nn.GroupNorm(2, 4)}
    net = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1),
        norms[norm],
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(200, CLASSES),
    )
    nl.insert(net, at="0", norm=norm)
    return net.to(dtype)


def plain_config(**changes):
    """Six steps of four clips, two epochs, quick to write and to read."""
    settings = {
        "epochs": 2, "batch_size": 4, "lr": 0.05, "workers": 0, "log_every": 1, "checkpoint_minutes": 60.0,
        "attention_items": 0,
    }  # fmt: skip
    settings |= changes
    if settings.get("steps"):
        settings["epochs"] = None
    return TrainConfig(**settings)


def accuracy(model):
    """Accuracy on the clips without noise."""
    clips = TinyClips(augment=False)
    x = torch.stack([clips[i][0] for i in range(len(clips))]).to(next(model.parameters()).dtype)
    labels = torch.arange(len(clips)) % CLASSES
    return {"accuracy": float((model(x).argmax(1) == labels).float().mean())}


def train(folder, config=None, *, model=None, data=None, log=lambda text: None, **options):
    """Run `fit` on a `TinyTask`; returns the result and the model."""
    model = network() if model is None else model
    task = TinyTask(model, TinyClips() if data is None else data, **options)
    return fit(task, config or plain_config(), folder, log=log), model


def last(folder):
    """The whole saved state of a run."""
    return torch.load(Path(folder) / "checkpoints" / "last.pt", weights_only=True)


def same_state(one, other):
    """Whether two states hold the same numbers, to the bit; times aside."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        keys = set(one) - {"seconds", "waited"}
        return keys == set(other) - {"seconds", "waited"} and all(same_state(one[key], other[key]) for key in keys)
    return one == other
