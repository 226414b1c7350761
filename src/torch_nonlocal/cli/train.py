"""`nonlocal train`: from a folder of clips to trained weights; goes on where it was."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from torch_nonlocal._common.files import check_folder
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.tasks.action import task as action
from torch_nonlocal.tasks.action.recipes import DIGITS_RECIPE, RECIPES, hardware_recipe
from torch_nonlocal.tasks.action.spec import ACTION
from torch_nonlocal.tasks.base import Recipe, learning_rate_hint
from torch_nonlocal.training import Result, TrainConfig, is_main_process

STOPPED = 75  # exit code of a run that was asked to stop and can go on (EX_TEMPFAIL)
LIST = "list"
_MACHINE = "action"


def command(arguments: Sequence[str]) -> Callable[..., None]:
    """`nonlocal train` with defaults from the recipe that the arguments name, else from data and machine.

    Args:
        arguments: of the command line; --recipe and --data are looked for, and which of --epochs and --steps is given.

    Raises:
        ValueError: an unknown recipe.
    """
    name, chosen = _chosen(arguments)
    default = chosen.config
    if _option(arguments, "epochs") and not _option(arguments, "steps"):
        default = replace(default, epochs=default.epochs or 1, steps=None)
    elif _option(arguments, "steps") and not _option(arguments, "epochs"):
        default = replace(default, steps=default.steps or 1, epochs=None)

    def train(
        task: tyro.conf.Positional[Literal["action"]],
        *,
        data: Path | None = None,
        recipe: str = "",
        out: Path = Path("runs", name),
        dry_run: bool = False,
        settings: tyro.conf.OmitArgPrefixes[action.ActionSettings] = chosen.settings,
        config: tyro.conf.OmitArgPrefixes[TrainConfig] = default,
        on_error: Literal["skip", "fail"] = "skip",
    ) -> None:
        """Train a network with non-local blocks on clips; the same command again goes on where it was.

        The data: a folder with a folder of videos for each class, with or without train/ and val/ above them, or the
        lists of Kinetics, UCF101, HMDB51 or Something-Something. Without a split a fifth of each class is held out.
        Network, frames, crop and batch are chosen for this machine unless given, and said. Without --data: moving
        digits, which are built in, and a small network for them. Several GPUs: start it by torchrun or accelerate
        launch.

        Example: nonlocal train action

        Example: nonlocal train action --data my-clips

        Example: nonlocal train action --data kinetics --recipe i3d-r50-nl5

        Args:
            task: action.
            data: folder of clips, or a list; without it the moving digits.
            recipe: settings of a paper or for a machine, by name; list shows them all. Any other option overrides
                them. With --help: the defaults are the recipe's.
            out: folder of the run, runs/digits without data, runs/RECIPE with a recipe: settings, log, TensorBoard
                curves, checkpoints.
            dry_run: print the settings and stop.
            settings: what is trained.
            config: how.
            on_error: skip a clip that cannot be read (it is listed in broken.jsonl), or fail.
        """
        if recipe == LIST:
            Console().print(recipe_table())
            return
        say = _printer()
        _tell(name, chosen, settings, config, data, say)
        if dry_run:
            return
        _check_start(name, chosen, settings, data, out)
        _train(data, out, settings, config, on_error, say)

    return train


def recipe_table() -> Table:
    """All recipes, one a row."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("recipe", "frames", "clips", "length", "lr", "published", "source"):
        table.add_column(column, no_wrap=column == "recipe", overflow="fold")
    for name, one in RECIPES.items():
        config = one.config
        length = f"{config.epochs} epochs" if config.epochs else f"{config.steps:,} updates"
        row = [name, one.settings.frames, str(config.batch_size), length, f"{config.lr:g}", one.published, one.source]
        table.add_row(*row)
    return table


def _chosen(arguments: Sequence[str]) -> tuple[str, Recipe]:
    """The recipe that sets the defaults, and the name of its run."""
    name = _option(arguments, "recipe")
    if name and name != LIST:
        return name, ACTION.recipe(name)
    if _option(arguments, "data") or name == LIST or {"-h", "--help"} & set(arguments):
        return _MACHINE, hardware_recipe()
    return DIGITS_RECIPE, RECIPES[DIGITS_RECIPE]


def _option(arguments: Sequence[str], name: str) -> str:
    """The value of --name VALUE or --name=VALUE; "" if it is not given."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
        if argument == f"--{name}":
            return arguments[place + 1] if place + 1 < len(arguments) else ""
    return ""


def _printer() -> Callable[[str], None]:
    """Prints lines as they are, in the main process only."""
    if not is_main_process():
        return lambda line: None
    console = Console()
    return lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True)


def _tell(
    name: str,
    chosen: Recipe,
    settings: action.ActionSettings,
    config: TrainConfig,
    data: Path | None,
    say: Callable[[str], None],
) -> None:
    if data is None and name == DIGITS_RECIPE:
        say("no --data: moving digits, which are built in; do two digits move alike, opposite or across?")
    kept = settings == chosen.settings and config == chosen.config
    said = "" if kept else ", changed by other options"
    which = "chosen for this machine" if name == _MACHINE else f"recipe {name}"
    say(f"{which}{said}: {chosen.source}")
    if chosen.published:
        say(f"published with it: {chosen.published} (top-1/top-5 on Kinetics-400); test with {chosen.test}")
    say(json.dumps({**vars(settings), **config.plain()}))
    hint = learning_rate_hint(config, chosen.config)
    say(hint or f"lr {config.lr:g} is for {config.batch_size} clips an update, over all processes and parts")


def _check_start(name: str, chosen: Recipe, settings: action.ActionSettings, data: Path | None, out: Path) -> None:
    check_folder(out)
    if data is None and name != DIGITS_RECIPE:
        raise ValueError(f"recipe {name} is for clips: expected --data; moving digits have --recipe {DIGITS_RECIPE}")
    if chosen.starts_from and settings.weights == "none":
        raise ValueError(
            f"recipe {name} goes on from a trained network: expected --weights with best.pt of --recipe "
            f"{chosen.starts_from}, such as runs/{chosen.starts_from}/checkpoints/best.pt"
        )


def _train(
    data: Path | None,
    out: Path,
    settings: action.ActionSettings,
    config: TrainConfig,
    on_error: Literal["skip", "fail"],
    say: Callable[[str], None],
) -> None:
    result = action.train(data, out, settings, config, on_error=on_error)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    say(_outcome(result))
    broken = BrokenClips(out / "broken.jsonl")
    if len(broken):
        say(f"clips that could not be read: {len(broken)}; {broken.path} names them")
    left_out = out / action.LEFT_OUT
    if left_out.exists():
        say(f"problems in lists or empty classes: {len(left_out.read_text('utf-8').splitlines())}; see {left_out}")
    if result.status == "stopped":
        say("stopped with a checkpoint: the same command goes on")
        sys.exit(STOPPED)
    say(f"next: nonlocal test action {result.weights}{f' --data {data}' if data else ''}")


def _outcome(result: Result) -> str:
    best = "" if result.best is None else f", best {result.best['metric']} {result.best['value']:.3f}"
    return f"{result.status} after {result.step:,} updates, {result.seconds:.0f} s{best}"
