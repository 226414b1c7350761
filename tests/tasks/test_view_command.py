"""`nonlocal view` on videos, photographs and folders, with trained networks, and two of them side by side."""

import dataclasses
import json
import re

import pytest
import torch

for name in ("av", "jinja2", "matplotlib", "rich", "sklearn", "torchvision", "tyro"):
    pytest.importorskip(name, reason="pip install 'torch-nonlocal[all]'")
Image = pytest.importorskip("PIL.Image", reason="pip install 'torch-nonlocal[all]'")

import torch_nonlocal as nl  # noqa: E402 (after the skips)
from torch_nonlocal.attention import gradient_times_activation  # noqa: E402
from torch_nonlocal.cli.entry import main  # noqa: E402
from torch_nonlocal.insertion import blocks  # noqa: E402
from torch_nonlocal.media import write_mp4  # noqa: E402
from torch_nonlocal.tasks.action.network import network  # noqa: E402
from torch_nonlocal.tasks.action.settings import DIGITS, ActionSettings  # noqa: E402
from torch_nonlocal.tasks.footage import evenly, read_footage  # noqa: E402
from torch_nonlocal.tasks.trained_viewing import attend_trained, is_trained, load_trained, network_input  # noqa: E402
from torch_nonlocal.tasks.view_pictures import Block, Scene  # noqa: E402
from torch_nonlocal.training import TrainConfig  # noqa: E402
from torch_nonlocal.training.run_folder import RunFolder  # noqa: E402
from torch_nonlocal.view.page.save import reason  # noqa: E402

CLASSES = ("same", "opposite", "perpendicular")


def best(folder, seed, accuracy, classes=CLASSES, **options):
    """A run folder with weights of the network for digits."""
    torch.manual_seed(seed)
    settings = ActionSettings(network=DIGITS, **{"frames": "4x1", "crop": 32, **options})
    model = network(settings, 3)
    about = {"task": "action", **dataclasses.asdict(settings), "classes": list(classes)}
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
    x = network_input(trained, footage.cut(trained.view_of))
    assert x.shape == (1, 1, 4, 32, 32)
    predicted = nl.load(files / "good").predict(files / "clip.mp4")
    assert block["classes"] == [[name, pytest.approx(score, abs=1e-6)] for name, score in predicted.top()]
    scores = torch.softmax(trained.model(x)[0].detach(), 0)
    alone = ", ".join(f"{CLASSES[k]} {scores[k]:.1%}" for k in scores.argsort(descending=True))
    assert block["scored"].endswith(f"on the frames and the region shown alone: {alone}.")
    (inserted,) = blocks(trained.model).values()
    best_class = CLASSES.index(predicted.label)
    expected = gradient_times_activation(trained.model, inserted, x, lambda out: out[0, best_class])[0]
    ((name, fact),) = attend_trained(trained, footage, files / "clip.mp4").facts.items()
    torch.testing.assert_close(fact.evidence, expected)
    assert expected.max() > 0
    y, x = (int(index) for index in torch.unravel_index(expected.argmax(), expected.shape)[1:])
    assert page["start"][1:] == pytest.approx([block["queryCenters"][1][y], block["queryCenters"][2][x]])
    assert (
        f"in {name}: the position with the most positive gradient \u00d7 activation ({expected.max():+.3g} logit) for"
        in page["facts"]["why"]
    )
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
        (["{good}", "{clip}", "--compare", "{root}/none.safetensors"], "expected best.pt of a run"),
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


@pytest.fixture(scope="module")
def cropped(tmp_path_factory):
    """A run whose network crops and takes 5 frames a second, and a video of 10 frames a second wider than high."""
    root = tmp_path_factory.mktemp("cropped")
    frames = torch.randint(0, 255, (20, 9, 15, 3), generator=torch.Generator().manual_seed(1)).byte()
    write_mp4(root / "clip.mp4", frames.repeat_interleave(8, 1).repeat_interleave(8, 2).numpy(), 10)
    best(root / "run", 4, 0.9, classes=("left", "right", "up"), frames="uniform-4", crop=28, fps=5.0)
    return root


@pytest.mark.parametrize("options", [[], ["--crops", "full", "--views", "2"], ["--views", "1", "--crops", "1"]])
def test_the_page_predicts_what_nonlocal_predict_predicts_and_shows_what_the_network_sees(cropped, tmp_path, options):
    paths = [str(cropped / "run"), str(cropped / "clip.mp4")]
    main(["predict", *paths, "--json", str(tmp_path / "p.json"), "--workers", "0", *options])
    main(["view", *paths, "-o", str(tmp_path / "out"), *options])
    (predicted,) = json.loads((tmp_path / "p.json").read_text())["predictions"]
    page = facts(tmp_path / "out")
    (block,) = page["blocks"]
    expected = [[one["label"], pytest.approx(one["probability"], abs=1e-6)] for one in predicted["top"]]
    assert block["classes"] == expected
    full, single = "full" in options, options[:2] == ["--views", "1"]
    side = 63 if single else 72  # 28 of 32 pixels
    start = [(72 - side) // 2, (120 - side) // 2]
    assert page["facts"]["origin"] == ([0, 0] if full else start)
    assert page["facts"]["size"] == page["clip"][1:] == ([72, 120] if full else [side, side])
    to = "53 \u00d7 32" if full else "28 \u00d7 28" if single else "32 \u00d7 32"
    assert f"resized to {to}" in block["seen"]
    assert ("whole frames of 120 \u00d7 72" in block["seen"]) == full
    assert ("trained on random crops of 28 \u00d7 28" in block["seen"]) == (not single)
    averaged = 1 if single else 2 if full else 30
    assert ("Shown is one view" in block["seen"]) == (not single)
    assert (f"the prediction averages all {averaged}." in block["seen"]) == (not single)
    assert ("(the middle crop)" in block["seen"]) == (averaged == 30)
    assert "as nonlocal predict" in block["scored"]
    assert all(word in block["scored"] for word in options)
    assert ("on the frames and the region shown alone" in block["scored"]) == (not single)
    numbers = [int(label.split(",")[0].split()[1]) for label in page["facts"]["labels"]]
    assert numbers == [2, 6, 12, 16]  # of 10 samples at 5 a second, those in the middle of 4 parts: 1, 3, 6, 8


def test_points_are_pixels_of_the_file_and_lie_in_the_region(cropped, tmp_path, capsys):
    paths = [str(cropped / "run"), str(cropped / "clip.mp4"), "-o", str(tmp_path / "out")]
    main(["view", *paths, "--point", "6,36,60"])
    page = facts(tmp_path / "out")
    assert page["start"] == [1, 36, 36]  # the region begins at x = 24
    assert page["facts"]["why"] == "Given, not chosen automatically."
    with pytest.raises(SystemExit):
        main(["view", *paths, "--point", "6,36,10"])
    assert "x is 10, outside the region that the network sees, 24 to 95; --crops full" in capsys.readouterr().err


def test_the_network_sees_the_frames_at_the_size_of_the_file(cropped):
    """Reducing frames for the page does not change what the network sees."""
    trained = load_trained(cropped / "run")
    found = [
        read_footage([cropped / "clip.mp4"], evenly(4), size=size, view_of=trained.view_of).cut(trained.view_of)
        for size in (16, 272)
    ]
    assert found[0].shape == (3, 4, 32, 32)
    assert torch.equal(*found)


def test_pictures_state_prediction_judgment_query_and_its_reason(cropped, tmp_path):
    trained = load_trained(cropped / "run")
    footage = read_footage([cropped / "clip.mp4"], evenly(4), view_of=trained.view_of)
    attended = attend_trained(trained, footage, cropped / "clip.mp4")
    ((name, about),) = attended.facts.items()
    scene = Scene(footage, Block.of(name, attended), reason(name, about, given=False))
    head, foot = scene.head("attention of"), scene.foot((1, 28, 28))
    assert f"Predicted class: {about.classes[0][0]} {about.classes[0][1]:.1%}" in head
    assert f"Caution, {name}: untrained" in head  # zero-initialized
    assert about.seen in head
    ring = "Ring: the query, frame 5, 0.50 s, y 28, x 52 (in pixels of the file, from 0 at its top left)."
    assert f"{ring} Chosen automatically in {name}: the position with the" in foot
    assert "arrow" not in foot.lower()
    assert scene.ends == ""
    assert "Untrained: the block adds nothing to its input" in foot


def test_networks_that_see_different_regions_are_not_compared(cropped, files, tmp_path, capsys):
    words = [str(cropped / "run"), str(cropped / "clip.mp4"), "--compare", str(files / "good"), "-o", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(["view", *words])
    assert "see different regions of the frames; expected --crops full" in capsys.readouterr().err
