"""Pictures and hyperparameters of a run in TensorBoard's files."""

import io

import pytest
import torch

for module, extra in {
    "accelerate": "train", "matplotlib": "view", "tensorboard": "train", "timm": "train", "torchmetrics": "train",
}.items():  # fmt: skip
    pytest.importorskip(module, reason=f"pip install 'torch-nonlocal[{extra}]'")

from PIL import Image  # noqa: E402 (after the skips)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402
from test_mistakes import CLASSES, net  # noqa: E402

from torch_nonlocal.tasks.action import data as action_data  # noqa: E402
from torch_nonlocal.tasks.action import task as task_module  # noqa: E402
from torch_nonlocal.tasks.action.board_pictures import attention_image, confusion_image  # noqa: E402
from torch_nonlocal.tasks.action.metrics import score  # noqa: E402
from torch_nonlocal.tasks.action.settings import ActionSettings  # noqa: E402
from torch_nonlocal.tasks.action.task import ActionTask, train  # noqa: E402
from torch_nonlocal.training import TrainConfig  # noqa: E402


def clip():
    return torch.randint(0, 256, (3, 4, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def run(folder):
    """Two steps on moving digits, each with an evaluation."""
    settings = ActionSettings(network="digits", frames="4x1", crop=16)
    config = TrainConfig(steps=2, batch_size=2, lr=0.01, workers=0, eval_every=1, attention_items=0)
    return train(None, folder, settings, config, log=lambda line: None)


def test_pictures_do_not_change_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(action_data, "VALIDATION_DIGITS", 6)
    drawn = []
    picture = task_module.attention_image
    monkeypatch.setattr(task_module, "attention_image", lambda *a, **k: drawn.append(picture(*a, **k)) or drawn[-1])
    run(tmp_path / "drawn")
    assert drawn[-1] is not None
    monkeypatch.setattr(ActionTask, "pictures", lambda self, model: {})
    run(tmp_path / "not")
    states = [torch.load(tmp_path / name / "checkpoints" / "last.pt")["model"] for name in ("drawn", "not")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_pictures_and_hyperparameters_are_in_the_event_files(tmp_path, monkeypatch):
    monkeypatch.setattr(action_data, "VALIDATION_DIGITS", 6)
    result = run(tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    found = board.Images("validation/confusion")
    assert [event.step for event in found] == [1, 2]
    image = Image.open(io.BytesIO(found[0].encoded_image_string)).convert("RGB")
    assert image.width > 300
    assert len(image.getcolors(image.width * image.height) or []) > 10
    assert result.best is not None
    assert board.Scalars("best/accuracy")[-1].value == pytest.approx(result.best["value"])
    session = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"network" in session
    assert b"digits" in session
    assert b"batch_size" in session


@pytest.mark.parametrize("true", [0, 1, 2])
def test_the_attention_picture_compares_the_prediction_with_the_true_or_the_second_class(true):
    image = attention_image(net(), clip(), true, CLASSES, prepare=lambda views: views / 255)
    assert image is not None
    assert (image.ndim, image.shape[2], image.dtype) == (3, 3, torch.uint8)
    assert len(image.flatten(0, 1).unique(dim=0)) > 10


@pytest.mark.parametrize(("places", "working"), [((), ()), (("last",), ())])
def test_without_working_blocks_there_is_no_attention_picture(places, working):
    model = net(places, working=working)
    assert attention_image(model, clip(), 0, CLASSES, prepare=lambda views: views / 255) is None


def test_the_confusion_matrix_is_drawn_for_up_to_50_classes():
    probabilities = torch.eye(51)
    assert confusion_image(score(probabilities, torch.arange(51)), [str(k) for k in range(51)]) is None
    image = confusion_image(score(torch.eye(3), torch.arange(3)), CLASSES)
    assert image is not None
    yellow = (image.int() - torch.tensor([253, 231, 55])).abs().sum(2) < 60  # the top of the color map
    assert yellow.any(), "the diagonal has all clips"
