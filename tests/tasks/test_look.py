"""Looking at one's own pictures with a network of one's own."""

import pytest
import torch

import torch_nonlocal as nl

pytest.importorskip("av", reason="pip install 'torch-nonlocal[video]'")
Image = pytest.importorskip("PIL.Image", reason="pip install 'torch-nonlocal[video]'")

from torch_nonlocal.tasks.look import build, look, read_inputs  # noqa: E402 (after the skips)

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


def test_images_become_frames_of_the_first_ones_size(pictures):
    assert read_inputs(pictures, frames=8).shape == (3, 30, 40, 3)
    assert read_inputs(pictures, frames=8, size=15).shape == (3, 15, 20, 3)
    assert read_inputs(pictures[:1], frames=8).shape == (1, 30, 40, 3)


def test_a_network_from_a_file_with_and_without_blocks(pictures, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    clip, model = read_inputs(pictures, frames=8), f"{tmp_path}/net.py:net"
    record = look(clip, model=model, checkpoint=None, **OPTIONS)["1"]
    assert record.geometry.grid == (3, 15, 20)
    assert record.geometry.stride == (1.0, 2.0, 2.0)
    torch.testing.assert_close(record.rows([(0, 3, 3)]).sum(), torch.tensor(1.0))
    network = build(model)
    nl.insert(network, at="1", example_input=torch.zeros(1, 3, 8, 8))
    nl.save_blocks(network, tmp_path / "blocks.pt")
    records = look(clip, model=model, checkpoint=tmp_path / "blocks.pt", **OPTIONS)
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
def test_unknown_models_are_named(model, message, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    with pytest.raises(ValueError, match=message):
        build(model.format(folder=tmp_path))


def test_a_place_is_asked_for(pictures, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    clip = read_inputs(pictures, frames=8)
    with pytest.raises(ValueError, match="--at names the module"):
        look(clip, model=f"{tmp_path}/net.py:net", checkpoint=None, **{**OPTIONS, "at": ""})
    with pytest.raises(ValueError, match="no module 'x'"):
        look(clip, model=f"{tmp_path}/net.py:net", checkpoint=None, **{**OPTIONS, "at": "x"})
