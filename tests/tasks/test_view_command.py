"""`nonlocal view` on videos, photographs and folders, with trained networks, and two of them side by side."""

import dataclasses
import json
import re

import pytest
import torch

for name in ("av", "jinja2", "matplotlib", "rich", "sklearn", "torchvision", "tyro"):
    pytest.importorskip(name, reason="pip install 'torch-nonlocal[all]'")
Image = pytest.importorskip("PIL.Image", reason="pip install 'torch-nonlocal[all]'")

from torch_nonlocal.attention import gradient_times_activation  # noqa: E402 (after the skips)
from torch_nonlocal.cli.entry import main  # noqa: E402
from torch_nonlocal.insertion import blocks  # noqa: E402
from torch_nonlocal.media import write_mp4  # noqa: E402
from torch_nonlocal.tasks.action.network import network  # noqa: E402
from torch_nonlocal.tasks.action.settings import DIGITS, ActionSettings  # noqa: E402
from torch_nonlocal.tasks.footage import evenly, read_footage  # noqa: E402
from torch_nonlocal.tasks.trained_viewing import attend_trained, is_trained, load_trained, network_input  # noqa: E402
from torch_nonlocal.training import TrainConfig  # noqa: E402
from torch_nonlocal.training.run_folder import RunFolder  # noqa: E402

CLASSES = ("same", "opposite", "perpendicular")


def best(folder, seed, accuracy):
    """A run folder with weights of the network for digits."""
    torch.manual_seed(seed)
    settings = ActionSettings(network=DIGITS, frames="4x1", crop=32)
    model = network(settings, 3)
    about = {"task": "action", **dataclasses.asdict(settings), "classes": list(CLASSES)}
    path = folder / "checkpoints" / "best.pt"
    path.parent.mkdir(parents=True)
    run = RunFolder(folder, TrainConfig(steps=1), about)
    run.write_weights(path, model.state_dict(), step=1, metrics={"accuracy": accuracy})
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("view")
    frames = torch.zeros(12, 64, 96, 3, dtype=torch.uint8)
    for t in range(12):
        frames[t, 10:24, 4 * t : 4 * t + 14] = 255
    write_mp4(root / "clip.mp4", frames.numpy(), 10)
    best(root / "good", 4, 0.9)
    best(root / "chance", 1, 0.35)
    return root


def facts(out):
    text = re.search(r'id="page-data">(.*?)</script>', (out / "page.html").read_text())
    assert text
    return json.loads(text[1])


def test_a_trained_network_shows_prediction_evidence_and_why(files, tmp_path, capsys):
    main(["view", str(files / "good"), str(files / "clip.mp4"), "-o", str(tmp_path)])
    printed = capsys.readouterr().out
    page = facts(tmp_path)
    (block,) = page["blocks"]
    trained = load_trained(files / "good")
    footage = read_footage([files / "clip.mp4"], evenly(4, start=4, stride=1))  # the middle of the video, as in tests
    assert page["facts"]["labels"] == list(footage.labels)
    x = network_input(trained, footage.clip)
    assert x.shape == (1, 1, 4, 32, 32)
    scores = torch.softmax(trained.model(x)[0].detach(), 0)
    assert [name for name, _ in block["classes"]] == [CLASSES[index] for index in scores.argsort(descending=True)]
    assert block["classes"][0][1] == pytest.approx(float(scores.max()), abs=1e-6)
    (inserted,) = blocks(trained.model).values()
    best_class = int(scores.argmax())
    expected = gradient_times_activation(trained.model, inserted, x, lambda out: out[0, best_class])[0]
    ((name, fact),) = attend_trained(trained, footage.clip).facts.items()
    torch.testing.assert_close(fact.evidence, expected)
    assert expected.max() > 0
    y, x = (int(index) for index in torch.unravel_index(expected.argmax(), expected.shape)[1:])
    assert page["start"][1:] == pytest.approx([block["queryCenters"][1][y], block["queryCenters"][2][x]])
    assert "largest gradient \u00d7 activation for" in page["facts"]["why"]
    assert f"{name}: untrained: the block adds nothing" in " ".join(printed.split())  # zero-initialized
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evidence.png", "page.html", "point0-arrows.png", "point0-heatmap.png",
    ]  # fmt: skip


def test_two_networks_are_shown_side_by_side(files, tmp_path, capsys):
    paths = [str(files / "good" / "checkpoints" / "best.pt"), str(files / "clip.mp4")]
    main(
        [
            "view",
            *paths,
            "--compare",
            str(files / "chance" / "checkpoints" / "best.pt"),
            "-o",
            str(tmp_path),
            "--point",
            "5,50%,20",
        ]
    )
    page = facts(tmp_path)
    names = [block["name"] for block in page["blocks"]]
    assert names == ["good/checkpoints/best.pt: conv3.2", "chance/checkpoints/best.pt: conv3.2"]
    assert page["facts"]["beside"] == names[1]
    assert page["start"][0] == 1  # frame 5 is the second of 4, 5, 6, 7
    assert (tmp_path / "point0-compare.png").exists()
    assert "query frame 5, 0.50 s" in capsys.readouterr().out


def test_a_network_at_chance_is_called_so_and_starts_at_a_salient_region(files, tmp_path):
    main(["view", str(files / "chance"), str(files / "clip.mp4"), "-o", str(tmp_path)])
    page = facts(tmp_path)
    assert "contrast and motion" in page["facts"]["why"]
    frame, y, x = page["start"]
    assert 8 <= y <= 26
    assert 4 * (4 + frame) - 8 <= x <= 4 * (4 + frame) + 22  # at the square
    assert "selective" not in page["blocks"][0]["verdict"]


NET = "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())\n"


def test_photographs_and_folders_of_2d_networks(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.effect_noise((40, 30), 60).convert("RGB").save(tmp_path / "photos" / f"{number}.png")
    options = ["--model", f"{tmp_path}/net.py:net", "--at", "1", "-o", str(tmp_path / "out")]
    main(["view", str(tmp_path / "photos"), *options])
    assert facts(tmp_path / "out")["facts"]["labels"] == ["0.png", "1.png", "2.png"]
    main(["view", str(tmp_path / "photos" / "1.png"), *options, "--point", "10,20"])
    page = facts(tmp_path / "out")
    assert page["start"] == [0, 10, 20]
    assert page["facts"]["labels"] == ["1.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{good}", "{clip}", "--block", "conv2"], "--block conv2: expected one of conv3.2"),
        (["{good}", "{clip}", "--compare", "{root}/none.safetensors"], "expected best.pt of `nonlocal train action`"),
        (["{clip}", "--compare", "{good}"], "expected a checkpoint before the video"),
        (["{good}", "{clip}", "--point", "5,90,20"], "--point 5,90,20: y is 90, expected 0 to 63"),
        (["{good}", "{clip}", "--k", "0"], "--k 0: expected at least 1"),
        (["{good}"], "give a video or images to look at"),
    ],
)
def test_invalid_input_is_named_and_nothing_is_written(files, tmp_path, capsys, words, message):
    places = {"good": files / "good", "clip": files / "clip.mp4", "root": files}
    with pytest.raises(SystemExit):
        main(["view", *(word.format(**places) for word in words), "-o", str(tmp_path / "out")])
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_runs_and_their_files_are_recognized(files):
    assert is_trained(files / "good")
    assert is_trained(files / "good" / "checkpoints" / "best.pt")
    assert not is_trained(files)
    assert not is_trained(files / "clip.mp4")
