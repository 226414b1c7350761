"""Sub-commands, help and errors of `nonlocal`.

A sub-command's module is imported when it is asked for: drawing, video and training bring large packages, and help
should be there at once.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import tyro
from rich.console import Console

COMMANDS = {
    "demo": ("demo", "Train with and without a block, look at real video, and weigh one block."),
    "plan": (
        "plan",
        "Where blocks can go in a network, and what each costs: parameters, FLOPs, memory with and without the N x M "
        "map.",
    ),
    "train": (
        "command",
        "Train a network with non-local blocks on clips; the same command again goes on where it was.",
    ),
    "test": (
        "evaluate",
        "Test trained weights on the held-out clips: accuracies, F1, confusion matrix, a prediction for each clip.",
    ),
    "view": ("view", "Show what pixels of a video or of images look at: heatmaps, arrows, and a page to click in."),
    "convert": (
        "convert",
        "Convert another project's checkpoint: its non-local blocks, or the whole network where ours is the same.",
    ),
    "data": ("data", "Check a folder of clips before training on it: nonlocal data check DIR."),
    "bench": (
        "bench",
        "Time and memory of this library, the definition, PyTorch's attention, mmcv and timm, in one run.",
    ),
}
"""What each is called in its module, `cli.NAME`, and the first sentence of its help."""


def app_for(arguments: Sequence[str]) -> tyro.extras.SubcommandApp:
    """The command line: the sub-command that is asked for as it is, the others as names with a sentence."""
    app: Any = tyro.extras.SubcommandApp()
    for name, (attribute, sentence) in COMMANDS.items():
        if name not in arguments[:1]:
            app.command(_placeholder(sentence), name=name)
            continue
        command = getattr(import_module(f"torch_nonlocal.cli.{name}"), attribute)
        app.command(command(arguments) if name == "train" else command, name=name)
    return app


def run() -> None:
    """Parse the command line and run the sub-command."""
    arguments = sys.argv[1:]
    try:
        app_for(arguments).cli(
            args=arguments,
            prog="nonlocal",
            description="Non-local self-attention for vision networks.",
            use_underscores=False,
        )
    except Exception as error:
        ours = type(error).__module__.startswith("torch_nonlocal.")
        if not ours and not isinstance(error, ValueError | ImportError | OSError):
            raise  # a mistake in the program, not the user's
        Console(stderr=True).print(f"nonlocal: {_said(error)}", style="bold red", markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _said(error: Exception) -> str:
    """What an error says, without the traceback that a DataLoader puts around the words of its workers."""
    text = str(error)
    if "Original Traceback" in text:
        return text.strip().splitlines()[-1].partition(": ")[2] or text
    return text


def _placeholder(sentence: str) -> Callable[[], None]:
    def command() -> None: ...

    command.__doc__ = sentence
    return command
