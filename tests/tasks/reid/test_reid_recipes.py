"""Recipes of re-identification: their networks are built, and exported with the same embeddings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

for package in ("numpy", "PIL.Image", "timm", "torchvision"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[reid]'")

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import torch_nonlocal as nl  # noqa: E402
from torch_nonlocal.cli.recipes import recipe_lines  # noqa: E402
from torch_nonlocal.tasks.base import get_task  # noqa: E402
from torch_nonlocal.tasks.reid.export import export  # noqa: E402
from torch_nonlocal.tasks.reid.network import network  # noqa: E402
from torch_nonlocal.tasks.reid.recipes import RECIPES  # noqa: E402
from torch_nonlocal.tasks.reid.settings import NONE, PERSONS  # noqa: E402
from torch_nonlocal.tasks.reid.trained import TrackletEmbedder  # noqa: E402

PLACES = {
    "reid-small": ["backbone.network.blocks.2.1", "backbone.network.blocks.4.2"],
    "reid-nvan": [f"backbone.layer{place}" for place in ("2.2", "2.3", "3.3", "3.4", "3.5")],
    "reid-3d-nvan": [f"backbone.layer{place}" for place in ("2.2", "2.3", "3.3", "3.4", "3.5")],
}


def built(name):
    """The untrained network of a recipe at a small size."""
    settings = replace(get_task("reid").recipe(name).settings, weights=NONE)
    if settings.network != PERSONS:
        settings = replace(settings, frames="uniform-2", height=64, width=32)
    torch.manual_seed(0)
    return network(settings, 3).eval(), settings


def test_the_list_of_recipes_says_what_blocks_each_has():
    assert len({recipe.source for recipe in RECIPES.values()}) == len(RECIPES)
    assert max(len(line) for line in recipe_lines(RECIPES)) <= 80
    for recipe in RECIPES.values():
        assert recipe.source.endswith("; no blocks") == (recipe.settings.non_local == NONE)


@pytest.mark.parametrize("name", ["reid", "reid-plain"])
def test_the_small_networks_differ_in_their_block_alone(name):
    model, settings = built(name)
    assert len(nl.blocks(model)) == (name == "reid")
    assert model(torch.zeros(2, 3, 8, *settings.size)).shape == (2, model.neck.num_features)


@pytest.mark.extended
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("reid", "reid-plain")])
def test_the_network_of_each_recipe_has_its_blocks(name):
    model, settings = built(name)
    assert list(nl.blocks(model)) == PLACES.get(name, [])
    assert model(torch.zeros(1, 3, 2, *settings.size)).shape == (1, model.neck.num_features)


@pytest.mark.extended
@pytest.mark.parametrize("name", ["reid", "reid-small", "reid-3d-nvan"])
def test_networks_of_recipes_are_exported_to_onnx(name, tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install 'torch-nonlocal[export]'")
    model, settings = built(name)
    for place in nl.blocks(model):  # blocks that are no longer the identity
        torch.nn.init.normal_(model.get_submodule(place).non_local.norm.weight, std=0.1)
    found = export(TrackletEmbedder(model, settings, "digest").eval(), tmp_path / "net.onnx", format="onnx")
    assert found.output == "embeddings"
    assert found.difference <= 1e-4 * max(found.largest, 1)
    assert found.shape == ("batch", 3, "frames", *settings.size)


@pytest.mark.extended
def test_the_documented_program_embeds_folders_as_the_network_does(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="pip install 'torch-nonlocal[export]'")
    page = (Path(__file__).parents[3] / "docs/reid.md").read_text("utf-8")
    program = next(block for block in page.split("```python\n")[1:] if "onnxruntime" in block).split("```")[0]
    model, settings = built("reid")
    embedder = TrackletEmbedder(model, settings, "digest").eval()
    export(embedder, tmp_path / "reid.onnx", format="onnx")
    rng = np.random.default_rng(0)
    for name in ("walk", "other"):
        (tmp_path / name).mkdir()
        for number, frame in enumerate(rng.integers(0, 256, (19, 3, 2, 3), dtype=np.uint8)):
            Image.fromarray(np.kron(frame, np.ones((20, 15, 1), np.uint8))).save(tmp_path / f"{name}/{number:03}.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(program, "docs/reid.md", "exec"), names)
    found, expected = torch.from_numpy(names["embed"]("walk")), embedder.embed("walk")
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)  # another program rounds resized pixels
    assert (embedder.embed("other") - expected).abs().max() > 0.01
