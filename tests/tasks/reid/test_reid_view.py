"""`nonlocal view` with a network of re-identification: it shows the frames that the network embeds."""

import json
import re
from dataclasses import asdict

import pytest
import torch

for package in ("av", "jinja2", "matplotlib", "numpy", "PIL.Image", "rich", "sklearn", "torchvision", "tyro"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[all]'")

from PIL import Image  # noqa: E402

import torch_nonlocal as nl  # noqa: E402
from torch_nonlocal.cli.entry import main  # noqa: E402
from torch_nonlocal.data.tracklets.given import GivenTracklets  # noqa: E402
from torch_nonlocal.media import write_mp4  # noqa: E402
from torch_nonlocal.models.inputs import inputs_of  # noqa: E402
from torch_nonlocal.tasks.footage import read_footage  # noqa: E402
from torch_nonlocal.tasks.reid.network import network  # noqa: E402
from torch_nonlocal.tasks.reid.settings import ReidSettings  # noqa: E402
from torch_nonlocal.tasks.trained_viewing import load_trained  # noqa: E402
from torch_nonlocal.training import TrainConfig  # noqa: E402
from torch_nonlocal.training.run_folder import RunFolder  # noqa: E402


def run(folder, **options):
    """The folder of a run with random weights, whose blocks are not the identity."""
    torch.manual_seed(0)
    settings = ReidSettings(network="persons", frames="uniform-3", height=48, width=24, **options)
    model = network(settings, 2)
    for block in nl.blocks(model).values():
        torch.nn.init.normal_(block.norm.weight)
    values = {name: value for name, value in asdict(settings).items() if name != "layout"}
    about = {"task": "reid", **values, "identities": 2, "inputs": inputs_of(model).to_dict()}
    path = folder / "checkpoints" / "best.pt"
    path.parent.mkdir(parents=True)
    RunFolder(folder, TrainConfig(steps=1), about).write_weights(path, model.state_dict(), step=1, metrics={"mAP": 0.5})
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A run, and its tracklets: a folder of frames of different sizes, and a video."""
    root = tmp_path_factory.mktemp("reid-view")
    torch.manual_seed(1)
    (root / "walk").mkdir()
    for number in range(7):
        pixels = torch.randint(0, 256, (50 + 3 * number, 30 - number, 3), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(root / "walk" / f"{number:03}.png")
    write_mp4(root / "walk.mp4", torch.randint(0, 256, (9, 64, 32, 3), dtype=torch.uint8).numpy(), 10)
    run(root / "run")
    return root


@pytest.mark.parametrize(
    ("name", "numbers"), [("walk", [1, 3, 5]), ("walk.mp4", [1, 4, 7]), ("walk/002.png", [0, 0, 0])]
)
def test_the_frames_are_those_that_the_network_embeds(files, name, numbers):
    viewed, path = load_trained(files / "run"), files / name
    footage = read_footage([path], viewed.frames(path, frames=0, start=0, stride=0), view_of=viewed.view_of)
    footage = footage.repeated(viewed.length)
    assert list(footage.numbers) == numbers
    (record,) = viewed.attend(footage).records.values()
    model = nl.load(files / "run")
    clip = GivenTracklets([path], (48, 24)).read(0, numbers)
    with torch.no_grad(), nl.watch(model.network) as seen:
        model.network(model.inputs.normalize(clip[None]))
    (expected,) = seen.values()
    points = [(0, 0, 0), (2, 5, 3)]
    assert torch.equal(record.rows(points), expected.rows(points))


def test_the_page_shows_a_tracklet(files, tmp_path, capsys):
    main(["view", str(files / "run"), str(files / "walk"), "--point", "3,50%,50%", "-o", str(tmp_path)])
    assert "query 003.png, y 2" in capsys.readouterr().out
    data = re.search(r'id="page-data">(.*?)</script>', (tmp_path / "page.html").read_text())
    assert data
    page = json.loads(data[1])
    assert page["facts"]["labels"] == ["001.png", "003.png", "005.png"]
    (block,) = page["blocks"]
    assert block["name"].startswith("backbone.conv2")
    assert (tmp_path / "point0-heatmap.png").exists()


@pytest.mark.parametrize("words", [["--crops", "full"], ["--views", "3"]])
def test_options_of_classes_are_refused(files, tmp_path, capsys, words):
    with pytest.raises(SystemExit):
        main(["view", str(files / "run"), str(files / "walk"), "-o", str(tmp_path / "out"), *words])
    assert "networks of re-identification take no --views and --crops" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_network_without_blocks_is_named(files, tmp_path, capsys):
    run(tmp_path / "plain", non_local="none")
    with pytest.raises(SystemExit):
        main(["view", str(tmp_path / "plain"), str(files / "walk"), "-o", str(tmp_path / "out")])
    assert "the network has no non-local blocks to show" in capsys.readouterr().err
