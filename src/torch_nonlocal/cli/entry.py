"""Entry point of the `nonlocal` command: version, missing packages, exit codes. Imports no third-party package."""

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from torch_nonlocal._common.files import printable
from torch_nonlocal._version import __version__
from torch_nonlocal.cli.needs import check_command_line
from torch_nonlocal.cli.threads import wait_passively

_MISTAKE = 2
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    A mistake of the user ends in one line on standard error and exit code 2, Ctrl-C in exit code 130. Errors of the
    program itself keep their traceback.

    Args:
        arguments: without the program's name; by default those of the process.

    Raises:
        SystemExit: with a code other than 0 where the command failed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        print(f"torch-nonlocal {__version__}")
        return
    if os.environ.get("NO_COLOR"):
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "0")  # tyro reads it on import; rich knows NO_COLOR itself
    wait_passively()
    try:
        check_command_line(words)
        from torch_nonlocal.cli.app import parse

        parse(words)()
    except Exception as error:
        if not _is_expected(error):
            raise
        print(f"nonlocal: {message_of(error)}", file=sys.stderr)
        sys.exit(_MISTAKE)
    except KeyboardInterrupt:
        print("nonlocal: interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    if arguments is None and os.environ.get("WORLD_SIZE", "1") != "1":
        _leave()


def _leave() -> None:
    """End one of several processes, successfully, without the teardown of PyTorch.

    The threads of gloo outlive the process group after training with DistributedDataParallel (torch 2.14), and a
    process that tears down beside them was seen to abort (SIGABRT) after a complete run.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a closed pipe
            stream.flush()
    os._exit(0)


def message_of(error: Exception) -> str:
    """An error's message in one printable line, without the traceback that a DataLoader adds to errors of workers."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    if "Original Traceback" in text:
        lines = text.rstrip().splitlines()
        after = max(number for number, line in enumerate(lines) if line.startswith((" ", "Original"))) + 1
        text = " ".join(lines[after:]).partition(": ")[2] or text  # the message, and notes such as the item
    return printable(" ".join(text.split()))


def _is_expected(error: Exception) -> bool:
    """Whether the input or the environment is at fault, not the program."""
    ours = type(error).__module__.startswith("torch_nonlocal.")
    return ours or isinstance(error, ValueError | ImportError | OSError)
