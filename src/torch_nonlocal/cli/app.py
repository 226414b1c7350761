"""Sub-commands, help and errors of `nonlocal`."""

import sys

import tyro
from rich.console import Console

from torch_nonlocal.cli.bench import bench
from torch_nonlocal.cli.convert import convert
from torch_nonlocal.cli.data import data
from torch_nonlocal.cli.demo import demo
from torch_nonlocal.cli.plan import plan
from torch_nonlocal.cli.test import evaluate
from torch_nonlocal.cli.train import train
from torch_nonlocal.cli.view import view

app = tyro.extras.SubcommandApp()
app.command(demo)
app.command(plan)
app.command(train)
app.command(name="test")(evaluate)
app.command(view)
app.command(convert)
app.command(data, name="data")
app.command(bench)


def run() -> None:
    """Parse the command line and run the sub-command."""
    try:
        app.cli(prog="nonlocal", description="Non-local self-attention for vision networks.", use_underscores=False)
    except (ValueError, ImportError, FileNotFoundError, PermissionError) as error:
        Console(stderr=True).print(f"nonlocal: {error}", style="bold red", markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
