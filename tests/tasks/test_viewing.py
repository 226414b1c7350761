"""Attention of networks on a user's own images."""

import pytest
import torch

import torch_nonlocal as nl

pytest.importorskip("av", reason="pip install 'torch-nonlocal[video]'")
Image = pytest.importorskip("PIL.Image", reason="pip install 'torch-nonlocal[video]'")

from torch_nonlocal.models.build import build  # noqa: E402 (after the skips)
from torch_nonlocal.tasks.viewing import attention_records, read_frames  # noqa: E402 (after the skips)

NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())

not_a_function = 3
"""


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for index, size in enumerate([(40, 30), (40, 30), (20, 20)]):
        paths.append(tmp_path / f"{index}.png")
        Image.effect_noise(size, 60).convert("RGB").save(paths[-1])
    return paths


OPTIONS = {"at": "1", "temperature": 0.1, "pretrained": False}


def test_images_become_frames_of_the_size_of_the_first(pictures):
    assert read_frames(pictures, frames=8).shape == (3, 30, 40, 3)
    assert read_frames(pictures, frames=8, size=15).shape == (3, 15, 20, 3)
    assert read_frames(pictures[:1], frames=8).shape == (1, 30, 40, 3)


def test_a_network_from_a_file_with_and_without_blocks(pictures, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    clip, model = read_frames(pictures, frames=8), f"{tmp_path}/net.py:net"
    record = attention_records(clip, model=model, checkpoint=None, **OPTIONS)["1"]
    assert record.geometry.grid == (3, 15, 20)
    assert record.geometry.stride == (1.0, 2.0, 2.0)
    torch.testing.assert_close(record.rows([(0, 3, 3)]).sum(), torch.tensor(1.0))
    network = build(model)
    nl.insert(network, at="1", example_input=torch.zeros(1, 3, 8, 8))
    nl.save_blocks(network, tmp_path / "blocks.pt")
    records = attention_records(clip, model=model, checkpoint=tmp_path / "blocks.pt", **OPTIONS)
    assert records["1"].geometry.grid == (15, 20)
    assert records["1"].batch_size == 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet50", "expected 'packaged', 'torchvision:resnet50'"),
        ("{folder}/none.py:net", "no Python file"),
        ("{folder}/net.py:other", "has no function 'other'"),
        ("{folder}/net.py:not_a_function", "has no function"),
    ],
)
def test_unknown_models_raise_with_the_expected_names(model, message, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    with pytest.raises(ValueError, match=message):
        build(model.format(folder=tmp_path))


def test_a_missing_or_unknown_module_raises(pictures, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    clip = read_frames(pictures, frames=8)
    with pytest.raises(ValueError, match="--at is required"):
        attention_records(clip, model=f"{tmp_path}/net.py:net", checkpoint=None, **{**OPTIONS, "at": ""})
    with pytest.raises(ValueError, match="no module 'x'"):
        attention_records(clip, model=f"{tmp_path}/net.py:net", checkpoint=None, **{**OPTIONS, "at": "x"})


@pytest.mark.parametrize(
    ("model", "at", "white"),
    [
        ("torchvision:resnet18", "layer2", [2.249, 2.429, 2.640]),
        ("torchvision:r3d_18", "layer2", [2.490, 2.733, 2.874]),
        ("timm:test_vit", "patch_embed.proj", [1.0, 1.0, 1.0]),
        ("packaged", "blocks.2", [1.0, 1.0, 1.0]),
    ],
)
def test_a_white_frame_arrives_as_the_network_expects_white(model, at, white, tmp_path, monkeypatch):
    for package in ("torchvision", "timm"):
        pytest.importorskip(package, reason="pip install 'torch-nonlocal[train]'")
    arrived = []

    def watched(*args, **options):
        network = build(*args, **options)
        network.register_forward_pre_hook(lambda _module, args: arrived.append(args[0].detach()))
        return network

    side = 160 if "vit" in model else 32
    frames = (2, side, side)
    network, video = build(model), model.endswith("r3d_18")
    example = torch.zeros(1, 3, *(frames if video else frames[1:]))
    nl.save_blocks(nl.insert(network, at=at, example_input=example), tmp_path / "blocks.pt")
    monkeypatch.setattr("torch_nonlocal.tasks.viewing.build", watched)
    clip = torch.full((*frames, 3), 255, dtype=torch.uint8)
    attention_records(clip, model=model, checkpoint=tmp_path / "blocks.pt", **OPTIONS)
    clips = arrived[-1] if video else arrived[-1].unsqueeze(2)
    expected = torch.tensor(white).view(1, 3, 1, 1, 1).expand_as(clips)
    torch.testing.assert_close(clips, expected, rtol=0, atol=5.1e-4)
