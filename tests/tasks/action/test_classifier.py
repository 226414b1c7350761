"""`nl.load`: a trained network in use predicts what `nonlocal test` tests."""

import copy
import dataclasses
import pickle
import types

import pytest
import torch

for package in ("accelerate", "av", "torchmetrics", "torchvision", "sklearn"):
    pytest.importorskip(package, reason="pip install 'torch-nonlocal[train]'")

from action_runs import CONFIG, SETTINGS, film, film_classes, train, use_tiny_networks  # noqa: E402

import torch_nonlocal as nl  # noqa: E402
from torch_nonlocal.media import BrokenVideoError, read_clip  # noqa: E402
from torch_nonlocal.models.inputs import GRAY, IMAGENET  # noqa: E402
from torch_nonlocal.tasks.action import evaluation  # noqa: E402
from torch_nonlocal.tasks.action.data import Digits  # noqa: E402
from torch_nonlocal.tasks.action.evaluation import evaluate  # noqa: E402
from torch_nonlocal.tasks.action.network import network  # noqa: E402
from torch_nonlocal.tasks.action.settings import DIGITS, ActionSettings  # noqa: E402
from torch_nonlocal.training import TrainConfig  # noqa: E402
from torch_nonlocal.training.run_folder import RunFolder  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of clips, and best.pt of a network trained on them with moving averages of the weights."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_networks(patch)
        result, _ = train(film_classes(root / "clips"), root / "run", config=dataclasses.replace(CONFIG, ema=0.9))
    return root / "clips", result.weights


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    use_tiny_networks(monkeypatch)


def weights(folder, settings, classes, model=None, **about):
    """Write a best.pt, with random weights unless a model is given."""
    folder.mkdir(exist_ok=True)
    model = model or network(settings, len(classes))
    held = {"task": "action", **dataclasses.asdict(settings), "classes": list(classes), **about}
    path = folder / "best.pt"
    RunFolder(folder, TrainConfig(steps=1), held).write_weights(path, model.state_dict(), step=1, metrics={})
    return path


def test_predictions_are_those_of_the_test_bit_for_bit(run):
    clips, checkpoint = run
    tested = evaluate(checkpoint, clips, whole=True)
    paths = [clip.path for clip in tested.clips.clips]
    model = nl.load(checkpoint)
    for found, expected, path in zip(model.predict(paths), tested.probabilities, paths, strict=True):
        assert found.clip == str(path)
        assert dict(zip(found.classes, found.probabilities, strict=True)) == dict(
            zip(("blue", "red"), expected.tolist(), strict=True)
        )
        assert found.label == found.labels[0] == ("blue", "red")[int(expected.argmax())]
        assert found.top(1) == [(found.label, found.probability)]


def test_a_long_run_is_optimized_and_gives_the_same_to_rounding(run, monkeypatch):
    clips, checkpoint = run
    plain = evaluate(checkpoint, clips, whole=True)
    assert not any("convolutions" in note for note in plain.notes)
    undone: list[bool] = []
    chosen = types.SimpleNamespace(reason="", undo=lambda: undone.append(True), __str__=lambda: "")
    monkeypatch.setattr(evaluation, "_WORTHWHILE", 1)
    monkeypatch.setattr(evaluation, "optimize", lambda model, x: chosen)
    optimized = evaluate(checkpoint, clips, whole=True, batch=2)
    assert undone == [True]
    assert str(chosen) in optimized.notes
    torch.testing.assert_close(optimized.probabilities, plain.probabilities)
    monkeypatch.undo()
    use_tiny_networks(monkeypatch)
    monkeypatch.setattr(evaluation, "_WORTHWHILE", 1)
    torch.testing.assert_close(evaluate(checkpoint, clips, whole=True, batch=2).probabilities, plain.probabilities)


def test_frames_in_memory_are_predicted_as_their_file(run):
    clips, checkpoint = run
    model, path = nl.load(checkpoint.parents[1]), clips / "red" / "0.mp4"
    found = model.predict(read_clip(path), views=3, crops=1)
    assert found == dataclasses.replace(model.predict(str(path), views=3, crops=1), clip="")
    assert found == model.predict(read_clip(path).numpy(), views=3, crops=1)
    assert [found, found] == model.predict([read_clip(path).numpy(), read_clip(path)], views=3, crops=1)
    assert found != model.predict(read_clip(clips / "blue" / "0.mp4"), views=3, crops=1)


def test_the_model_is_a_module_with_classes_and_inputs(run):
    model = nl.load(run[1])
    assert isinstance(model, torch.nn.Module)
    assert not any(module.training for module in model.modules())
    assert model.classes == ("blue", "red")
    assert model.inputs == dataclasses.replace(IMAGENET, size=(16, 16), frames=2)
    x = torch.randn(2, 3, 2, 16, 16)
    assert torch.equal(model(x), model.network(x))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        assert other.classes == model.classes


def test_prediction_restores_modes(run):
    model = nl.load(run[1]).train()
    model.predict(run[0] / "red" / "0.mp4", views=1)
    assert all(module.training for module in model.modules())


def test_several_classes_are_predicted_from_the_threshold_on(run, tmp_path):
    clips, _ = run
    settings, names = dataclasses.replace(SETTINGS, multi_label=True), ("a", "b", "c")
    model = network(settings, 3)
    with torch.no_grad():
        model.last.weight.zero_()
        model.last.bias.copy_(torch.tensor([0.0, 2.0, -2.0]))
    found = nl.load(weights(tmp_path, settings, names, model)).predict(clips / "red" / "0.mp4")
    assert found.classes == ("b", "a", "c")
    torch.testing.assert_close(torch.tensor(found.probabilities), torch.tensor([2.0, 0.0, -2.0]).sigmoid())
    assert found.labels == ("b", "a")
    high = nl.load(tmp_path / "best.pt").predict(clips / "red" / "0.mp4", threshold=0.95)
    assert high.labels == ()
    assert high.label == "b"


def test_moving_digits_are_predicted_as_they_are_tested(tmp_path, monkeypatch):
    monkeypatch.undo()
    settings = ActionSettings(DIGITS, frames="8x1", crop=32, flip=False)
    digits = Digits(settings)
    path = weights(tmp_path, settings, digits.classes, inputs=GRAY.to_dict())
    model, (_, views) = nl.load(path), digits.test()
    clip, _, _ = views[0]
    expected = model.network(model.inputs.normalize(clip[None])).softmax(1)[0]
    gray_THW, rgb_THWC = clip[0], clip.expand(3, -1, -1, -1).permute(1, 2, 3, 0)
    for frames in (gray_THW, gray_THW[..., None], rgb_THWC):
        found = model.predict(frames)
        assert [found.top(3)[k][0] for k in range(3)] == [digits.classes[k] for k in expected.argsort(descending=True)]
        torch.testing.assert_close(torch.tensor(found.probabilities), expected.sort(descending=True).values)


def test_clips_that_cannot_be_predicted_are_named(run, tmp_path):
    clips, _ = run
    model = nl.load(weights(tmp_path, dataclasses.replace(SETTINGS, frames="8x1"), ("a", "b")))
    single = film(tmp_path / "single.mp4", 0, frames=1)
    with pytest.raises(BrokenVideoError, match=r"single.mp4' has 1 frame, expected at least 2$") as short:
        model.predict(single)
    assert short.value.kind == "too short"
    with pytest.raises(BrokenVideoError, match="the clip has 1 frame, expected at least 2"):
        model.predict(torch.zeros(1, 16, 16, 3, dtype=torch.uint8))
    with pytest.raises(BrokenVideoError, match=r"missing.mp4"):
        model.predict([clips / "red" / "0.mp4", tmp_path / "missing.mp4"][1:])
    with pytest.raises(ValueError, match=r"got \(8, 3, 16, 16\) uint8, expected frames \(T, H, W, 3\)"):
        model.predict(torch.zeros(8, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"got \(8, 16, 16, 3\) float32, expected"):
        model.predict(torch.zeros(8, 16, 16, 3))


@pytest.mark.parametrize(
    ("frames", "fps", "note"),
    [
        ("8x1", None, "6 frames, the network takes 8: they repeat from the start"),
        ("uniform-8", None, "6 frames, the network takes 8: frames repeat in order"),
        ("4x1", 5.0, "2 frames at 5 fps, the network takes 4: they repeat from the start"),
        ("uniform-6", None, ""),
    ],
)
def test_too_few_frames_repeat_as_in_the_test_with_a_note(run, tmp_path, frames, fps, note):
    clips, _ = run
    path = weights(tmp_path, dataclasses.replace(SETTINGS, frames=frames, fps=fps), ("blue", "red"))
    model, tested = nl.load(path), evaluate(path, clips, whole=True, views=2)
    found = model.predict([clip.path for clip in tested.clips.clips], views=2)
    assert {one.note for one in found} == {note}
    repeating = [line for line in tested.notes if line.startswith("note: ") and note and line.endswith(note[-20:])]
    assert len(repeating) == bool(note)
    for one, expected in zip(found, tested.probabilities, strict=True):
        assert one.probabilities == tuple(expected.sort(descending=True).values.tolist())
    if fps is None:
        first = tested.clips.clips[0].path
        assert model.predict(read_clip(first), views=2) == dataclasses.replace(found[0], clip="")


def test_files_of_other_kinds_are_named_with_what_reads_them(run, tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1))
    nl.save_blocks(nl.insert(net, "0"), tmp_path / "blocks.pt")
    torch.save(net.state_dict(), tmp_path / "plain.pt")
    weights(tmp_path, SETTINGS, ("a", "b"), task="digits").rename(tmp_path / "digits.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, message in (
        ("blocks.pt", r"blocks.pt is a file of blocks; nl.load_blocks\(model, .*\) inserts them; expected best.pt"),
        ("plain.pt", r"plain.pt is a file of tensors by name; nl.load_weights\(model, .*\) loads them"),
        ("digits.pt", r"digits.pt: not weights of `nonlocal train action`: they are of the task 'digits'"),
        ("text.pt", r"text.pt"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            nl.load(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"last.pt is a training state; best.pt in the same folder holds the weights"):
        nl.load(run[1].with_name("last.pt"))
    with pytest.raises(FileNotFoundError, match=r"no weights at .*missing.pt"):
        nl.load(tmp_path / "missing.pt")


def test_no_class_of_the_file_is_unpickled(run, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    torch.save({"format": "torch-nonlocal weights 1", "model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match=r"trap.pt"):
        nl.load(tmp_path / "trap.pt")
    assert not (tmp_path / "executed").exists()
