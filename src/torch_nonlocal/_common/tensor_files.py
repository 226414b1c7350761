"""From a file of another project to its tensors by name. Nothing in the file is ever run."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.pickles import RefusedError, load_arrays

_WRAPPERS = ("state_dict", "model_state", "model", "blobs")  # where projects keep the weights in a larger dictionary
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that opens torch's older files
_ZIP = b"PK\x03\x04"


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name.

    Reads .safetensors, `torch.save` files (with weights_only=True) and pickles of numpy arrays such as Caffe2's; which
    of them it is, the content tells, not the suffix. A dictionary around the weights ("state_dict", "model_state",
    "model", "blobs") is opened, a leading "module." dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is empty, cut off, no checkpoint, or asks for code to be run (the message names what it asks
            for). Nothing is run.
        ImportError: safetensors is needed and not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise ValueError(f"{path} is empty")
    try:
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            content = safetensors_torch().load_file(path)
        elif head.startswith(_ZIP) or head.startswith(_TORCH_LEGACY):
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            with path.open("rb") as file:
                content = load_arrays(file)
    except ImportError:
        raise
    except Exception as error:  # whatever a broken or hostile file provokes, the user learns which file it was
        raise ValueError(f"{path} {_what_is_wrong(error)}") from error
    return _by_name(path, content)


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, RefusedError):
        return f"is refused, nothing of it was run: {error}"
    named = re.search(r"GLOBAL (\S+)", str(error))  # torch's own message advises to trust the file; ours does not
    if named:
        return f"is refused, nothing of it was run: it asks for {named[1]}, which tensors do not need"
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"cannot be read as a checkpoint; it is cut off, or of another kind: {first_line}"


def _by_name(path: Path, content: Any) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected tensors by name")
    tensors = {
        str(key).removeprefix("module."): value.detach() for key, value in content.items() if isinstance(value, Tensor)
    }
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise ValueError(f"{path} holds no tensors by name; it has {keys}")
    return tensors


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str], *, key: str) -> None:
    """Write tensors and a header of texts, at once or not at all.

    A .safetensors file has the header as metadata; a file of `torch.save` is a dictionary of the header and, under
    `key`, the tensors.
    """
    partial = path.with_name(path.name + ".partial")  # a reader never sees half a file
    try:
        if path.suffix == ".safetensors":
            safetensors_torch().save_file(tensors, partial, metadata=header)
        else:
            torch.save({**header, key: tensors}, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def safetensors_torch() -> Any:
    """The module `safetensors.torch`.

    Raises:
        ImportError: it is not installed; the message names what brings it.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "reading and writing .safetensors needs: pip install 'torch-nonlocal[checkpoints]'"
        ) from error
    return safetensors.torch  # has save_file and, imported there, safe_open
