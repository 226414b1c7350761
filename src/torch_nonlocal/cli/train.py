"""`nonlocal train TASK`: train a network, or resume its run."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from torch_nonlocal._common.files import check_folder
from torch_nonlocal._common.terminal import print_lines
from torch_nonlocal.cli.needs import check_task
from torch_nonlocal.cli.recipes import recipe_lines, setting_lines
from torch_nonlocal.cli.seeds import SeedRun, check_comparable, has_metric, seed_folders, train_seeds, write_summary
from torch_nonlocal.cli.threads import use_free_cores
from torch_nonlocal.distributed.rank import main_process_log
from torch_nonlocal.tasks.base import Recipe, TaskSpec, get_task, learning_rate_hint, task_names
from torch_nonlocal.training.config import RENAMED, TrainConfig

if TYPE_CHECKING:
    from torch_nonlocal.training import Result

SUMMARY = "Train a network with non-local blocks; rerun the command to resume."
INTERRUPTED = 75
"""Exit code of an interrupted run that can be resumed (EX_TEMPFAIL)."""
LIST = "list"

Data = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
Training = Annotated[tyro.conf.OmitArgPrefixes[TrainConfig], tyro.conf.arg(name="training")]


@dataclass(frozen=True)
class _Choice:
    """The options that choose the defaults of the others."""

    data: Path | None = None
    recipe: str = ""
    epochs: int = 0
    steps: int = 0


@dataclass(frozen=True)
class _Former:
    """Former names of options."""

    optimiser: str = ""
    attention_clips: int = -1


def commands(arguments: Sequence[str]) -> tuple[dict[str, Callable[..., None]], Sequence[str]]:
    """`nonlocal train TASK` for every task; see `app.COMMANDS`. A recipe gives the defaults of the options.

    Raises:
        ValueError: an unknown recipe; the message suggests the nearest name.
    """
    known: dict[str, Any] = {"prog": "nonlocal train", "add_help": False, "return_unknown_args": True}
    arguments = _with_values(arguments)
    former, arguments = tyro.cli(_Former, args=arguments, **known)
    choice, _ = tyro.cli(_Choice, args=arguments, **known)
    renamed = {RENAMED[name]: value for name, value in vars(former).items() if value != getattr(_Former, name)}
    for name in vars(former):
        if RENAMED[name] in renamed:
            print(f"nonlocal: --{name} is deprecated: use --{RENAMED[name]}".replace("_", "-"), file=sys.stderr)
    named = arguments[0] if arguments else ""
    found = {}
    for name in task_names():
        used = name == named
        found[name] = _command(get_task(name), choice if used else _Choice(), renamed if used else {}, arguments)
    return found, arguments


def _with_values(arguments: Sequence[str]) -> list[str]:
    """The arguments with --channels-last and --no-channels-last as values, since the option has a third value, auto."""
    words: list[str] = []
    for number, word in enumerate(arguments):
        name = word.replace("_", "-")
        following = arguments[number + 1] if number + 1 < len(arguments) else ""
        if name == "--no-channels-last":
            words += ["--channels-last", "False"]
        elif name == "--channels-last" and following not in ("True", "False", "auto"):
            words += ["--channels-last", "True"]
        else:
            words.append(word)
    return words


def _command(
    spec: TaskSpec[Any], choice: _Choice, changes: Mapping[str, Any], arguments: Sequence[str]
) -> Callable[..., None]:
    """`nonlocal train` for one task; its defaults are those of the recipe and of `changes` to its configuration."""
    name, recipe_ = _recipe(spec, choice)
    default = replace(recipe_.config, **changes)
    if choice.epochs and not choice.steps:
        default = replace(default, epochs=default.epochs or 1, steps=None)
    elif choice.steps and not choice.epochs:
        default = replace(default, steps=default.steps or 1, epochs=None)

    def train(
        *,
        data: Data = None,
        recipe: str = "",
        out: Path = Path("runs", name),
        seeds: int = 1,
        dry_run: bool = False,
        on_error: Literal["skip", "fail"] = "skip",
        settings: Any = recipe_.settings,
        config: Training = default,
    ) -> None:
        if recipe == LIST:
            print_lines("\n".join(recipe_lines(spec.recipes())))
            return
        folders = seed_folders(out, config.seed, seeds)
        if not dry_run:
            check_folder(out)
            _check_recipe(name, recipe_, settings, data)
            check_task(spec)
            if not spec.tests_seeds:
                check_comparable(folders, lambda: spec.has_metric(data, settings, on_error=on_error))
        if data is not None:
            check_task(spec)
            spec.check_location(data, settings)
        show = main_process_log(print_lines)
        for line in _start_lines(name, recipe_, choice, settings, config):
            show(line)
        if dry_run:
            spec.check_data(data, settings, on_error=on_error, log=show)
            return
        from torch_nonlocal.training.errors import RunLengthError
        from torch_nonlocal.training.run_folder import saved_threads

        def run(seed: int, folder: Path) -> "Result":
            use_free_cores(show, kept=saved_threads(folder), seconds=0.5)
            result = spec.train(data, folder, settings, replace(config, seed=seed), on_error=on_error)
            show(f"seed {seed}: {_outcome(result)}" if folders else _outcome(result))
            return result

        try:
            runs = train_seeds(folders or {config.seed: out}, run, compared=bool(folders) and not spec.tests_seeds)
            _end(spec, data, settings, out, runs, show)
        except RunLengthError as error:
            if not error.can_extend:
                raise
            raise ValueError(
                f"{error}. {_longer(arguments, out, not folders and hasattr(settings, 'weights'))}"
            ) from error

    train.__annotations__["settings"] = Annotated[
        tyro.conf.OmitArgPrefixes[spec.settings], tyro.conf.arg(name="model and data")
    ]
    train.__doc__ = _help(spec, name)
    return train


def _help(spec: TaskSpec[Any], name: str) -> str:
    details = f"{spec.details}\n\n    " if spec.details else ""
    return f"""Train a network for {spec.summary[:1].lower()}{spec.summary[1:]}

    {details}Rerun the same command to resume from the last checkpoint; a finished run is not changed. A recipe sets
    the defaults of the model, data and training options; options on the command line override it. Without --recipe,
    one is chosen automatically for the data and the hardware and printed. The network is trained on the GPU if there
    is one. For several processes, start the command with torchrun or accelerate launch:
    torchrun --standalone --nproc-per-node 8 -m torch_nonlocal train {spec.name} ...

    Example: nonlocal train {spec.name} --data my-data

    Example: nonlocal train {spec.name} --recipe list

    Args:
        data: folder or list of the training data; without it, the built-in data of the task.
        recipe: name of a recipe; list prints all of them. The defaults in this help are those of the recipe in use,
            here {name}; add --data or --recipe before --help to see others.
        out: folder of the run: settings, log, curves and checkpoints; runs/ and the name of the recipe by default.
        seeds: number of runs, with the seeds --seed, --seed + 1 and so on, in the folders seed-0, seed-1, ... of --out;
            mean and spread of the metric are printed and written to seeds.json. Rerun the command to resume.
        dry_run: print the settings, open the data and exit.
        on_error: skip items that cannot be read (they are listed in the run's folder), or fail.
        settings: These settings are saved with the weights.
        config: The recipe in use gives the defaults.
    """


def _recipe(spec: TaskSpec[Any], choice: _Choice) -> tuple[str, Recipe[Any]]:
    """The recipe that gives the defaults, and the name of its run."""
    if choice.recipe and choice.recipe != LIST:
        return choice.recipe, spec.recipe(choice.recipe)
    if choice.data is not None:
        check_task(spec)  # a recipe for own data may depend on the hardware, and so import torch
    return spec.default_recipe(choice.data)


def _start_lines(name: str, recipe: Recipe[Any], choice: _Choice, settings: Any, config: TrainConfig) -> list[str]:
    """What is printed before training: the recipe, all settings, and a hint about the learning rate."""
    origin = f"recipe {name}" if choice.recipe else f"recipe {name}, chosen automatically"
    lines = [f"{origin}: {recipe.source}"]
    if recipe.published:
        protocol = f"; test with {recipe.test}" if recipe.test else ""
        lines.append(f"published result: {recipe.published}{protocol}")
    lines += setting_lines({**vars(settings), **config.plain()}, {**vars(recipe.settings), **recipe.config.plain()})
    hint = learning_rate_hint(config, recipe.config)
    return [*lines, hint] if hint else lines


def _check_recipe(name: str, recipe: Recipe[Any], settings: Any, data: Path | None) -> None:
    """Check that a recipe has what it needs, before training.

    Raises:
        ValueError: it needs data, or the weights of another recipe's run.
    """
    if data is None and recipe.needs_data:
        raise ValueError(f"recipe {name} has no built-in data: expected --data")
    if recipe.starts_from and settings.weights == "none":
        raise ValueError(
            f"recipe {name} starts from a trained network: expected --weights with best.pt of --recipe "
            f"{recipe.starts_from}, such as runs/{recipe.starts_from}/checkpoints/best.pt"
        )


def _end(
    spec: TaskSpec[Any],
    data: Path | None,
    settings: Any,
    out: Path,
    runs: list[SeedRun],
    show: Callable[[str], None],
) -> None:
    """Print what came out of the runs, and end the processes of the last one."""
    import torch

    from torch_nonlocal.distributed import is_main_process

    is_main = is_main_process()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    result = runs[-1].result
    if result.status == "stopped":
        show("interrupted; rerun the command to resume")
        sys.exit(INTERRUPTED)
    if len(runs) > 1 and is_main and all(has_metric(run.result) for run in runs):
        for line in write_summary(out, runs):
            show(line)
    tested = out if len(runs) > 1 and spec.tests_seeds else result.weights
    words = ["nonlocal", "test", spec.name, str(tested)]
    words += ["--data", str(data)] if data else []
    for name, value in spec.test_arguments(settings).items():
        words += [f"--{name}", value]
    show(f"next: {shlex.join(words)}")


def _longer(arguments: Sequence[str], out: Path, has_weights: bool) -> str:
    """The commands that train further than the run in `out`."""
    commands = f"extend it: {shlex.join(['nonlocal', 'train', *arguments, '--extend'])}"
    if has_weights:
        kept = _without(_without(arguments, "--out"), "--weights")
        anew = ["--out", f"{out}-2", "--weights", str(out / "checkpoints" / "best.pt")]
        commands += f" ; or start from its weights: {shlex.join(['nonlocal', 'train', *kept, *anew])}"
    return commands


def _without(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments without an option and its value."""
    kept, skip = [], False
    for word in arguments:
        if not skip and word != option and not word.startswith(f"{option}="):
            kept.append(word)
        skip = word == option and not skip
    return kept


def _outcome(result: "Result") -> str:
    best = f", best {result.best['metric']} {result.best['value']:.3f}" if result.best and has_metric(result) else ""
    return f"{result.status} after {result.step:,} steps, {result.seconds:.0f} s{best}"
