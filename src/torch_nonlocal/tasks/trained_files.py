"""Files of trained weights of any task. Errors name what reads a file of another kind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch_nonlocal._common.plain_values import shown
from torch_nonlocal._common.tensor_files import read_weights
from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.training import load_weights_file

_IN_RUN = "checkpoints/best.pt"
_OTHER_KINDS = {
    "blocks": "a file of blocks; nl.load_blocks(model, {path!r}) inserts them",
    "network": "a converted network; nl.create_model(NAME, weights={path!r}) loads it",
    "training state": "a training state; best.pt in the same folder holds the weights",
    "state dict": "a file of tensors by name; nl.load_weights(model, {path!r}) loads them into a network",
}
_USES = {
    "action": "; `nonlocal predict` uses them",
    "denoise": "; `nonlocal denoise --checkpoint` uses them",
    "reid": "; `nonlocal predict`, `nonlocal gallery` and `nonlocal test reid` use them",
}


class OtherTaskError(ValueError):
    """A file holds weights of another task.

    Attributes:
        task: name of the task in the file; anything, if the file is damaged.
        path: the file.
        content: what it holds.
    """

    def __init__(self, message: str, task: Any, path: Path, content: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.task, self.path, self.content = task, path, content


def weights_path(weights: Path) -> Path:
    """The file of trained weights in the folder of a run, or the file itself.

    Raises:
        FileNotFoundError: it is a folder of several runs.
    """
    if not weights.is_dir():
        return weights
    path = weights / _IN_RUN
    if not path.parent.exists() and (runs := sorted(one.parent.parent for one in weights.glob(f"*/{_IN_RUN}"))):
        raise FileNotFoundError(
            f"{weights} holds {counted(len(runs), 'run')}, expected one of {listed(map(str, runs))}"
        )
    return path


def read_trained_file(path: Path, task: str) -> Mapping[str, Any]:
    """Read weights that `nonlocal train TASK` trained; see `training.load_weights_file`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file does not hold trained weights; the message names what reads a file of another kind.
        OtherTaskError: (a ValueError) it holds those of another task.
    """
    expected = f"expected best.pt of `nonlocal train {task}`"
    try:
        content = load_weights_file(path)
    except ValueError as error:
        try:
            kind = read_weights(path).kind
        except ValueError:
            raise error from None
        if kind not in _OTHER_KINDS:
            raise
        raise ValueError(f"{path} is {_OTHER_KINDS[kind].format(path=str(path))}; {expected}") from error
    found = content["about"].get("task")
    if found != task:
        of = f"are of the task {shown(found)}" if found is not None else "do not name their task"
        use = _USES.get(found, "") if isinstance(found, str) else ""
        raise OtherTaskError(
            f"{path}: not weights of `nonlocal train {task}`: they {of}{use}; {expected}", found, path, content
        )
    return content


def saved_texts(content: Mapping[str, Any], name: str, path: Path) -> frozenset[str]:
    """Texts that are saved with the weights, such as digests of what they were trained on; empty if there are none.

    Args:
        content: what the file holds.
        name: name of the list.
        path: the file, for messages.

    Raises:
        ValueError: they are no list of texts.
    """
    extra = content.get("extra", {})
    texts = extra.get(name, []) if isinstance(extra, Mapping) else extra
    if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
        raise ValueError(f"{path}: its {name} is {shown(texts)}, expected a list of texts")
    return frozenset(texts)
