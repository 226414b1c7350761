"""Attention of networks on a user's own images."""

import pytest
import torch

import torch_nonlocal as nl

pytest.importorskip("av", reason="pip install 'torch-nonlocal[video]'")
Image = pytest.importorskip("PIL.Image", reason="pip install 'torch-nonlocal[video]'")

from torch_nonlocal.models.build import build  # noqa: E402 (after the skips)
from torch_nonlocal.models.inputs import inputs_of  # noqa: E402 (after the skips)
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


def test_a_3d_network_without_blocks_runs_on_the_clip_as_a_whole():
    pytest.importorskip("torchvision", reason="pip install 'torch-nonlocal[train]'")
    clip = torch.randint(0, 256, (4, 32, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    records = attention_records(
        clip, model="torchvision:r3d_18", checkpoint=None, at="layer2", temperature=0.1, pretrained=False
    )
    torch.manual_seed(0)
    network = build("torchvision:r3d_18").eval()
    found = []
    network.get_submodule("layer2").register_forward_hook(lambda _module, _args, output: found.append(output))
    with torch.no_grad():
        network(inputs_of(network).normalize(clip.permute(3, 0, 1, 2).unsqueeze(0)))
    x = torch.nn.functional.normalize(found[0][0].flatten(1).T, dim=-1)
    record = records["layer2"]
    assert record.geometry.grid == tuple(found[0].shape[2:]) == (2, 8, 10)
    assert record.geometry.stride == (2.0, 4.0, 4.0)
    torch.testing.assert_close(record.rows([(1, 3, 5)])[0].flatten(), torch.softmax(x @ x[80 + 35] / 0.1, dim=0))


@pytest.mark.parametrize(
    ("model", "at", "message"),
    [
        ("torchvision:r3d_18", "fc", r"'fc': expected one output \(1, C, T, H, W\) in a run"),
        ("torchvision:resnet18", "fc", r"'fc': expected one output \(T, C, H, W\) in a run"),
        ("torchvision:s3d", "features.0", r"S3D does not run on 2 frames of 32 x 32: .*"),
        ("torchvision:vit_b_32", "conv_proj", r"does not run on 2 frames of 32 x 32: .* 224 x 224"),
    ],
)
def test_a_network_that_does_not_fit_the_clip_is_refused_in_one_line(model, at, message):
    pytest.importorskip("torchvision", reason="pip install 'torch-nonlocal[train]'")
    clip = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message) as caught:
        attention_records(clip, model=model, checkpoint=None, at=at, temperature=0.1, pretrained=False)
    assert "\n" not in str(caught.value)
