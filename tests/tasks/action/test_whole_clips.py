"""Clips whose class only the whole clip tells: uniform clips are chosen and learn it, windows stay at chance."""

import dataclasses

import pytest
import torch
from torch import nn

for package in ("accelerate", "av", "torchmetrics", "torchvision", "sklearn"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[train]'")

from action_runs import CONFIG, SETTINGS, train, use_tiny_networks  # noqa: E402

from torch_nonlocal.media import write_mp4  # noqa: E402
from torch_nonlocal.tasks.action import network  # noqa: E402
from torch_nonlocal.tasks.action.evaluation import evaluate  # noqa: E402

FRAMES, EMPTY, SEEN = 600, 57, 200  # 57: the span of an 8x8 window


class ColorOfEachFrame(nn.Module):
    """The mean color of each of 8 frames, and a linear layer."""

    def __init__(self, classes):
        super().__init__()
        self.last = nn.Linear(24, classes)

    def forward(self, clips):
        return self.last(clips.mean((3, 4)).flatten(1))


def colors_in_turn(path, seed, first):
    """Ten seconds: red and blue after each other, black for the span of a window before, between and after them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    spare = FRAMES - 3 * EMPTY - 2 * SEEN
    early, late = sorted(torch.randint(spare + 1, (2,), generator=torch.Generator().manual_seed(seed)).tolist())
    clip = torch.zeros(FRAMES, 16, 16, 3, dtype=torch.uint8)
    for start, color in ((EMPTY + early, first), (2 * EMPTY + SEEN + late, 2 - first)):
        clip[start : start + SEEN, ..., color] = 255
    write_mp4(path, clip, 60)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for split, count in (("train", 24), ("val", 16)):
        for number in range(count):
            first = 2 * (number % 2)
            colors_in_turn(root / split / f"first{first}" / f"{number}.mp4", 100 * count + number, first)
    return root


@pytest.mark.parametrize(("frames", "least", "most"), [("auto", 0.95, 1.0), ("8x8", 0.3, 0.7)])
def test_only_uniform_clips_learn_what_the_whole_clip_tells(clips, tmp_path, monkeypatch, frames, least, most):
    use_tiny_networks(monkeypatch)
    monkeypatch.setattr(network, "_without_blocks", lambda settings, classes: ColorOfEachFrame(classes))
    settings = dataclasses.replace(SETTINGS, frames=frames)
    config = dataclasses.replace(CONFIG, epochs=6, batch_size=4, lr=0.02, optimizer="adamw", eval_every=36)
    result, lines = train(clips, tmp_path / "run", settings, config)
    assert any("frames uniform-8, chosen automatically" in line for line in lines) == (frames == "auto")
    assert least <= evaluate(result.weights, clips).scores.top1 <= most
