"""Errors of the command line: one line on standard error, exit code 2, the nearest right name."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")

from torch_nonlocal._common.text import elided, near_path
from torch_nonlocal.cli import app
from torch_nonlocal.cli.entry import main
from torch_nonlocal.training.errors import NonFiniteLossError

WORKER = """Caught BrokenVideoError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "worker.py", line 1, in fetch
torch_nonlocal.media.broken.BrokenVideoError: 'a.mp4' is damaged: frame 3 cannot be decoded
"""
WITH_NOTE = """Caught BrokenVideoError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "picture.py", line 9, in open
PIL.UnidentifiedImageError: cannot identify image file

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "worker.py", line 1, in fetch
    read(path)
    ^^^^^^^^^^
torch_nonlocal.media.broken.BrokenVideoError: 'a.png' cannot be read: cannot identify image file
while reading item 2 of the training data
"""
KNOWN = "demo, plan, replace, train, test, predict, view, export, denoise, convert, data, gallery, bench"


def error_of(*words, capsys):
    """The line that a command prints to standard error."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("nonlocal: ")
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("nonlocal: ").strip()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pln"], f"no command 'pln'; did you mean 'plan'? commands: {KNOWN}"),
        (["chek"], f"no command 'chek'; did you mean 'data check'? commands: {KNOWN}"),
        (["xyzzy"], f"no command 'xyzzy'; commands: {KNOWN}"),
        ([], f"expected a command: {KNOWN}; see nonlocal --help"),
        (["--quick", "bench"], f"expected a command before --quick: {KNOWN}; see nonlocal --help"),
        (["data", "chek"], "no command 'chek'; did you mean 'check'? commands: check"),
        (["data"], "expected a command: check; see nonlocal data --help"),
        (["train", "acton"], "no task 'acton'; did you mean 'action'? tasks: action, denoise, reid"),
        (["test", "acton", "best.pt"], "no task 'acton'; did you mean 'action'? tasks: action, denoise, reid"),
        (["train"], "expected a task: action, denoise, reid; see nonlocal train --help"),
        (["train", "action", "--recpie", "laptop"], "unrecognized options: --recpie, laptop; did you mean --recipe?"),
        (["bench", "--form", "gaussian", "--repeat", "3"],
         "unrecognized options: --form, gaussian, --repeat, 3; did you mean --forms or --repeats?"),
        (["plan", "ours:i3d_resnet50"], "missing from nonlocal plan: --input SIZE"),
        (["test", "action"], "missing from nonlocal test action: CHECKPOINT"),
        (["plan", "x", "--input"], "missing value for argument '--input'. Expected 1 values"),
        (["train", "action", "--schedule", "linear"],
         "invalid choice 'linear' for argument '--schedule'. Expected one of ('step', 'cosine', 'one-cycle')"),
        (["train", "action", "--schedule", "one_cycl"],
         "invalid choice 'one_cycl' for argument '--schedule'. Expected one of ('step', 'cosine', 'one-cycle'); "
         "did you mean 'one-cycle'?"),
        (["train", "action", "--epochs", "x"], "error parsing --epochs: invalid literal for int() with base 10: 'x'"),
        (["train", "action", "--ema", "x"], "error parsing --ema: expected FLOAT or none, got 'x'"),
        (["train", "action", "--crop", "-3"], "crop=-3: expected 1 to 4,096 pixels"),
        (["train", "action", "--lr", "0"], "lr=0.0: expected above 0"),
        (["bench", "--forms", "gausian"],
         "--forms gausian: did you mean 'gaussian'? forms: embedded_gaussian, gaussian, dot_product, concatenation"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes_end_in_one_line_with_the_nearest_name(words, message, capsys):
    assert error_of(*words, capsys=capsys) == message


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("torchvision:r3d_19", "torchvision has no model 'r3d_19'; did you mean 'r3d_18'?"),
        ("r3d_18", "did you mean 'torchvision:r3d_18'?"),
        ("ours:i3d_resnet51", "did you mean 'i3d_resnet50'?"),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest_one(model, message, capsys):
    pytest.importorskip("torchvision", reason="pip install 'torch-nonlocal[models]'")
    assert message in error_of("plan", model, "--input", "3x8x32x32", capsys=capsys)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("runs/action/bst.pt", "runs/action/best.pt"),
        ("runs/acton/best.pt", "runs/action"),
        ("run/action/best.pt", "runs"),
        ("runs/action/other.safetensors", None),
        ("xyz/best.pt", None),
    ],
)
def test_a_missing_path_is_answered_with_the_nearest_one(path, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/action").mkdir(parents=True)
    (tmp_path / "runs/action/best.pt").touch()
    assert near_path(path) == ("" if near is None else f"; did you mean {near!r}?")
    hint = "" if near is None else f"; did you mean {str(tmp_path / near)!r}?"
    assert near_path(tmp_path / path) == hint


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("crop=-3: expected 1 to 4,096 pixels"), "crop=-3: expected 1 to 4,096 pixels"),
        (ValueError("first line\n  second line"), "first line second line"),
        (ValueError(WORKER), "'a.mp4' is damaged: frame 3 cannot be decoded"),
        (
            ValueError(WITH_NOTE),
            "'a.png' cannot be read: cannot identify image file while reading item 2 of the training data",
        ),
        (FileExistsError(17, "File exists", "afile"), "afile: File exists"),
        (NonFiniteLossError("the loss is nan in step 2", step=2, items=[]), "the loss is nan in step 2"),
    ],
    ids=["a value", "two lines", "in a worker", "in a worker, with its item", "a file", "a loss"],
)
def test_errors_of_input_and_environment_end_in_one_line(error, message, monkeypatch, capsys):
    def fail(arguments):
        raise error

    monkeypatch.setattr(app, "parse", fail)
    assert error_of("bench", capsys=capsys) == message


def test_a_long_message_is_not_wrapped(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    assert len(error_of("xyzzy", capsys=capsys)) > 80


def test_errors_of_the_program_keep_their_traceback(monkeypatch):
    def fail(arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(app, "parse", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(["bench"])


def test_an_interrupt_exits_with_130(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "parse", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["bench"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "nonlocal: interrupted\n"


@pytest.mark.parametrize("words", [["plan", "--help"], ["chek"]])
def test_output_has_no_colors_with_no_color(words):
    environment = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "torch_nonlocal", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["--batch-size", "--batch"])
def test_test_and_predict_take_the_batch_size_by_its_former_name_too(name, capsys):
    pytest.importorskip("av", reason="pip install 'torch-nonlocal[train]'")
    for words in (["test", "action", "best.pt"], ["predict", "best.pt", "clip.mp4"]):
        with pytest.raises(SystemExit):
            main([*words, name, "0"])
        assert "--batch-size 0: expected 1 or more" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main([*words, f"{name}=0"])
        assert "--batch-size 0: expected 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(("most", "text"), [(9, "anna-door"), (8, "anna\u2026oor"), (3, "a\u2026r"), (1, "a\u2026r")])
def test_long_names_lose_their_middle(most, text):
    assert elided("anna-door", most) == text
