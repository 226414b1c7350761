"""`nonlocal train` and `nonlocal test` for any registered task: options, recipes, and what is printed."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
pytest.importorskip("rich", reason="pip install 'torch-nonlocal[cli]'")

from torch_nonlocal.cli.entry import main
from torch_nonlocal.cli.recipes import recipe_lines, setting_lines
from torch_nonlocal.cli.train import INTERRUPTED
from torch_nonlocal.tasks.base import Recipe, TaskSpec, get_task
from torch_nonlocal.training.config import TrainConfig
from torch_nonlocal.training.errors import RunLengthError


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings.

    Attributes:
        width: channels.
        weights: initial weights.
    """

    width: int = 8
    weights: str = "none"


@dataclasses.dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        views: clips per item.
    """

    views: int = 10


class Toy(TaskSpec[Settings]):
    name, summary, settings, test_options = "toy", "Fit a line.", Settings, Options
    status, best = "finished", {"metric": "error", "value": 0.25}

    def __init__(self):
        self.calls = []

    def recipes(self):
        fast = TrainConfig(steps=10, batch_size=4, lr=0.1)
        slow = TrainConfig(epochs=5, batch_size=64, lr=0.01)
        return {
            "built-in": Recipe(Settings(), fast, "built-in data"),
            "paper": Recipe(Settings(16), slow, "A paper", "74.9", "--views 3", needs_data=True),
            "longer": Recipe(Settings(16), slow, "A paper", starts_from="paper", needs_data=True),
        }

    def default_recipe(self, data):
        return ("built-in", self.recipes()["built-in"]) if data is None else ("toy", self.recipes()["paper"])

    def train(self, data, run_dir, settings, config, *, on_error="skip", log=None):
        self.calls.append(SimpleNamespace(data=data, out=run_dir, settings=settings, config=config, on_error=on_error))
        return SimpleNamespace(status=self.status, step=10, seconds=1.0, best=self.best, weights=run_dir / "best.pt")

    def test(self, checkpoint, data, out, options, *, on_progress=None, log=print):
        self.calls.append(SimpleNamespace(checkpoint=checkpoint, data=data, out=out, options=options))
        on_progress(3, 10)
        log("error 0.25")
        return {"error": 0.25}


@pytest.fixture
def toy(register):
    """A registered task that records how it is called, in an empty working folder."""
    return register(Toy())


def settings_printed(text):
    """Settings by name, as the table shows them."""
    lines = [line[2:] for line in text.splitlines() if line.startswith("  ")]
    assert max(map(len, lines)) <= 78
    cells = [cell for line in lines for cell in ([line] if "(recipe" in line else [line[:39], line[39:]]) if cell]
    return {name: value.strip() for name, value in (cell.split(maxsplit=1) for cell in cells)}


@pytest.mark.parametrize(
    ("task", "given", "options"),
    [
        ("reid", {}, {}),
        ("reid", {"layout": "mars", "network": "net.py:maps"}, {"layout": "mars", "network": "net.py:maps"}),
        ("reid", {"network": "timm:resnet50"}, {}),
        ("action", {"frames": "8x4"}, {}),
        (
            "action",
            {"root": "clips", "prefix": "/old", "fold": 2, "network": "net.py:net"},
            {"root": "clips", "prefix": "/old", "fold": "2", "network": "net.py:net"},
        ),
        ("denoise", {"val": "x"}, {}),
    ],
)
def test_settings_that_weights_do_not_hold_are_options_of_the_test(task, given, options):
    spec = get_task(task)
    assert spec.test_arguments(spec.settings(**given)) == options
    assert options.keys() <= {field.name for field in dataclasses.fields(spec.test_options)}


class TestTrain:
    def test_settings_and_configuration_are_options(self, toy, capsys):
        main(["train", "toy", "--width", "3", "--lr", "0.5", "--on-error", "fail", "--out", "here"])
        (call,) = toy.calls
        assert (call.data, call.out, call.on_error) == (None, Path("here"), "fail")
        assert call.settings == Settings(3)
        assert call.config == TrainConfig(steps=10, batch_size=4, lr=0.5)
        printed = capsys.readouterr().out
        assert "finished after 10 steps, 1 s, best error 0.250" in printed
        assert printed.endswith("next: nonlocal test toy here/best.pt\n")

    def test_the_printed_test_command_has_the_data_and_what_the_weights_do_not_hold(self, toy, capsys, monkeypatch):
        monkeypatch.setattr(Toy, "test_arguments", lambda self, settings: {"width": str(settings.width)})
        main(["train", "toy", "--width", "3", "--out", "here", "--data", "my clips"])
        assert capsys.readouterr().out.endswith("next: nonlocal test toy here/best.pt --data 'my clips' --width 3\n")

    @pytest.mark.parametrize("word", ["none", "None"])
    def test_none_is_read_as_it_is_printed(self, toy, word):
        main(["train", "toy", "--clip-grad", word])
        assert toy.calls[0].config.clip_grad is None

    def test_a_path_may_be_called_none(self, toy):
        main(["train", "toy", "--data", "none"])
        main(["train", "toy", "--data", "None", "--out", "other"])
        assert [call.data for call in toy.calls] == [Path("none"), None]

    def test_weights_without_a_metric_are_not_called_the_best(self, toy, capsys, monkeypatch):
        monkeypatch.setattr(toy, "best", {"metric": "step", "value": 10.0})
        main(["train", "toy", "--out", "here"])
        assert "finished after 10 steps, 1 s\n" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "width", "out"),
        [
            ([], 8, "runs/built-in"),
            (["--data", "x"], 16, "runs/toy"),
            (["--data=x"], 16, "runs/toy"),
            (["--recipe", "paper", "--data", "x"], 16, "runs/paper"),
            (["--data", "x", "--recipe=built-in"], 8, "runs/built-in"),
        ],
    )
    def test_data_and_recipe_choose_the_defaults(self, toy, words, width, out):
        main(["train", "toy", *words])
        assert (toy.calls[0].settings.width, toy.calls[0].out) == (width, Path(out))

    @pytest.mark.parametrize(
        ("words", "steps", "epochs"),
        [
            (["--recipe", "built-in", "--epochs", "2"], None, 2),
            (["--recipe", "paper", "--steps", "3"], 3, None),
            (["--recipe", "paper", "--epochs", "7"], None, 7),
        ],
    )
    def test_steps_replace_the_epochs_of_a_recipe_and_the_other_way_round(self, toy, words, steps, epochs):
        main(["train", "toy", "--data", "x", *words])
        assert (toy.calls[0].config.steps, toy.calls[0].config.epochs) == (steps, epochs)

    def test_former_names_of_options_still_work(self, toy, capsys):
        main(["train", "toy", "--optimiser", "adamw", "--attention-clips=0", "--width", "3"])
        config = toy.calls[0].config
        assert (config.optimizer, config.attention_items, toy.calls[0].settings.width) == ("adamw", 0, 3)
        assert capsys.readouterr().err.splitlines() == [
            "nonlocal: --optimiser is deprecated: use --optimizer",
            "nonlocal: --attention-clips is deprecated: use --attention-items",
        ]

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ([], False),
            (["--channels-last"], True),
            (["--channels_last", "--width", "3"], True),
            (["--no-channels-last"], False),
            (["--channels-last", "auto"], "auto"),
        ],
    )
    def test_the_memory_format_is_a_flag_or_auto(self, toy, words, expected):
        main(["train", "toy", *words])
        assert toy.calls[0].config.channels_last == expected

    def test_a_dry_run_prints_every_setting_and_writes_nothing(self, toy, tmp_path, capsys):
        main(["train", "toy", "--recipe", "paper", "--dry-run", "--batch-size", "16", "--width", "4", "--steps", "3"])
        printed = capsys.readouterr().out
        assert printed.startswith("recipe paper: A paper\npublished result: 74.9; test with --views 3\n")
        shown = settings_printed(printed)
        names = [field.name for kind in (Settings, TrainConfig) for field in dataclasses.fields(kind)]
        assert list(shown) == [name.replace("_", "-") for name in names]
        changed = {name: value for name, value in shown.items() if "recipe: " in value}
        assert changed == {
            "width": "4  (recipe: 16)",
            "epochs": "none  (recipe: 5)",
            "steps": "3  (recipe: none)",
            "batch-size": "16  (recipe: 64)",
        }
        assert (shown["lr"], shown["milestones"], shown["nesterov"]) == ("0.01", "0.375 0.75", "no")
        assert "linear scaling gives --lr 0.0025" in printed
        assert not toy.calls
        assert not list(tmp_path.iterdir())

    def test_an_automatic_choice_is_printed(self, toy, capsys):
        main(["train", "toy", "--dry-run"])
        assert capsys.readouterr().out.startswith("recipe built-in, chosen automatically: built-in data\n")

    def test_an_interrupted_run_exits_with_75_and_says_how_to_resume(self, toy, monkeypatch, capsys):
        monkeypatch.setattr(toy, "status", "stopped")
        with pytest.raises(SystemExit) as ended:
            main(["train", "toy"])
        assert ended.value.code == INTERRUPTED == 75
        assert capsys.readouterr().out.endswith("interrupted; rerun the command to resume\n")

    def test_a_longer_run_is_refused_with_the_commands_that_train_further(self, toy, monkeypatch, capsys):
        def refuse(*arguments, **options):
            raise RunLengthError("runs/x holds a run of 5 epochs, given: 9 epochs", can_extend=True)

        monkeypatch.setattr(toy, "train", refuse)
        with pytest.raises(SystemExit):
            main(["train", "toy", "--data", "my clips", "--out=runs/x", "--epochs", "9", "--weights", "old.pt"])
        assert capsys.readouterr().err == (
            "nonlocal: runs/x holds a run of 5 epochs, given: 9 epochs. extend it: "
            "nonlocal train toy --data 'my clips' --out=runs/x --epochs 9 --weights old.pt --extend ; "
            "or start from its weights: nonlocal train toy --data 'my clips' --epochs 9 --out runs/x-2 "
            "--weights runs/x/checkpoints/best.pt\n"
        )

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--recipe", "papr", "--data", "x"], "no recipe 'papr'; did you mean 'paper'?"),
            (["--recipe", "paper"], "recipe paper has no built-in data: expected --data"),
            (["--recipe", "longer", "--data", "x"],
             "starts from a trained network: expected --weights with best.pt of --recipe paper"),
            (["--epochs", "2", "--steps", "3"], "epochs=2, steps=3: expected exactly one of the two"),
            (["--out", "file"], "--out file is a file: expected a folder"),
            (["--optimiser", "adam"], "optimizer='adam': expected one of sgd, adamw"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )  # fmt: skip
    def test_mistakes_are_refused_before_training(self, toy, words, message, capsys):
        Path("file").write_text("")
        with pytest.raises(SystemExit) as ended:
            main(["train", "toy", *words])
        assert ended.value.code == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.count("\n") == 1
        assert not toy.calls

    def test_help_shows_the_defaults_of_the_recipe(self, toy, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["train", "toy", "--recipe", "paper", "--help"])
        assert ended.value.code == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "channels. (default: 16)" in printed
        assert "(default: runs/paper)" in printed
        assert "optimiser" not in printed


class TestRecipes:
    def test_the_list_shows_every_recipe_below_its_source(self, toy, capsys):
        main(["train", "toy", "--recipe", "list"])
        assert [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()][1:] == [
            ["built-in", "data"],
            ["built-in", "4", "10", "steps", "0.1"],
            ["A", "paper"],
            ["paper", "64", "5", "epochs", "0.01", "74.9"],
            ["longer", "64", "5", "epochs", "0.01"],
        ]

    @pytest.mark.parametrize("task", ["action", "denoise"])
    def test_recipes_fit_into_80_columns(self, task):
        recipes = get_task(task).recipes()
        lines = recipe_lines(recipes)
        assert max(map(len, lines)) <= 80
        assert set(recipes) == {line.split()[0] for line in lines if line.startswith("  ")}
        assert not [line for line in lines if line.startswith("  ") and "  " not in line.strip()], "columns are apart"
        assert ("frames" in lines[0]) is (task == "action")

    def test_settings_are_shown_as_a_person_writes_them(self):
        values = {"flag": True, "rate": 0.001, "places": (), "sizes": [1, 2], "clip_grad": None, "name": "x"}
        assert setting_lines(values, {**values, "name": "y"}) == [
            "  flag                yes                rate                0.001",
            "  places              none               sizes               1 2",
            "  clip-grad           none",
            "  name                x  (recipe: y)",
        ]
        long = {"network": "torchvision:swin3d_t", "crop": 112, "lr": 0.1}
        assert setting_lines(long, long) == [
            "  network             torchvision:swin3d_t",
            "  crop                112                lr                  0.1",
        ]


class TestTest:
    def test_the_task_gets_its_options_and_its_lines_are_printed(self, toy, capsys):
        main(["test", "toy", "best.pt", "--data", "x", "--views", "3"])
        (call,) = toy.calls
        assert (call.checkpoint, call.data, call.out, call.options) == (
            Path("best.pt"), Path("x"), Path("test-out"), Options(3),
        )  # fmt: skip
        assert capsys.readouterr().out == "error 0.25\n"

    def test_an_output_folder_that_is_a_file_is_refused(self, toy, capsys):
        Path("file").write_text("")
        with pytest.raises(SystemExit):
            main(["test", "toy", "best.pt", "--out", "file"])
        assert "--out file is a file" in capsys.readouterr().err
        assert not toy.calls
