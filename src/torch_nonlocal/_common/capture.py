"""Outputs of modules while a network runs, and runs that leave the network as it was."""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from torch_nonlocal._common.own_hooks import own_hooks


@contextmanager
def capture_outputs(
    modules: Mapping[str, nn.Module], keep: Callable[[Any], Any] = lambda output: output
) -> Iterator[dict[str, list[Any]]]:
    """Record what modules return while the block of code runs; runs in other threads are not recorded.

    Args:
        modules: by any name.
        keep: what is recorded of an output; the output itself by default.

    Yields:
        For each name a list with one entry per run of the module, filled while the network runs.
    """
    outputs: dict[str, list[Any]] = {name: [] for name in modules}
    with own_hooks() as hooks:
        for name, module in modules.items():
            runs = outputs[name]
            hooks.after(module, lambda _module, _args, output, runs=runs: runs.append(keep(output)))
        yield outputs


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the model in eval mode inside the context; its modes and the random state are restored afterwards.

    Modes are set module by module, because a model may override `train()` and `eval()` with side effects.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted(
        {p.device.index for p in model.parameters() if p.device.type == "cuda" and p.device.index is not None}
    )
    with torch.random.fork_rng(devices=devices):
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Run the model inside the context; attributes and buffers that it changes are restored afterwards.

    Modules whose parameters are initialized by their first run keep what they created.
    """
    modules = [module for module in model.modules() if not isinstance(module, LazyModuleMixin)]
    python = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    attributes = [(module.__dict__, dict(module.__dict__)) for module in python]
    names = [(module._buffers, dict(module._buffers)) for module in python]
    own = {id(one): one for module in modules for one in module.buffers(recurse=False)}
    tensors = [(one, one._version, one.clone()) for one in own.values() if not one.is_inference()]
    try:
        yield
    finally:
        for current, before in attributes + names:
            for key in [key for key in current if key not in before]:
                del current[key]
            for key, value in before.items():
                if key not in current or current[key] is not value:
                    current[key] = value
        with torch.no_grad():
            for tensor, version, value in tensors:
                if tensor._version != version:
                    tensor.copy_(value)


@contextmanager
def eager() -> Iterator[None]:
    """Run what torch.compile has compiled as plain PyTorch inside the context, so that module hooks are called.

    Only code of this thread is affected where PyTorch has a switch for that; `set_stance` is one for the process.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        yield
        return
    state = _state_of_thread()
    with _eager_process() if state is None else _eager_thread(state):
        yield


def _state_of_thread() -> Any:
    """PyTorch's thread-local state with `depth`: compiled code runs as plain PyTorch where it is positive."""
    return getattr(sys.modules["torch._dynamo"].eval_frame, "_force_eager_nested_compile", None)


class _Depth:
    """The contexts that a thread has opened, as a number. They end in any order, and in any thread."""

    def __init__(self, before: int) -> None:
        self._open = [None] * before

    def __gt__(self, other: int) -> bool:
        return len(self._open) > other

    def __add__(self, other: int) -> int:
        return len(self._open) + other

    def enter(self) -> None:
        self._open.append(None)

    def leave(self) -> None:
        self._open.pop()


@contextmanager
def _eager_thread(state: Any) -> Iterator[None]:
    depth = getattr(state, "depth", 0)
    if not isinstance(depth, _Depth):
        depth = state.depth = _Depth(depth)
    depth.enter()
    try:
        yield
    finally:
        depth.leave()  # of the thread that entered: a generator may be closed by another


_stances = 0  # contexts that are open, in all threads
_stance: Any = None
_stance_lock = threading.Lock()


@contextmanager
def _eager_process() -> Iterator[None]:
    """Set the stance of the process; it is restored when the last of several contexts ends, in any order."""
    global _stances, _stance
    with _stance_lock:
        if _stances == 0:
            _stance = torch.compiler.set_stance("force_eager")
            _stance.__enter__()
        _stances += 1
    try:
        yield
    finally:
        with _stance_lock:
            _stances -= 1
            if _stances == 0:
                _stance.__exit__(None, None, None)


def find_module(model: nn.Module, name: str) -> nn.Module:
    """A module by its name.

    Raises:
        ValueError: the model has no such module; the message lists the top-level ones.
    """
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        names = ", ".join(child for child, _ in model.named_children())
        raise ValueError(f"no module {name!r}; modules: {names}, and those inside them") from error


@torch.no_grad()
def clip_features(model: nn.Module, at: str, frames_TCHW: Tensor, *, per_frame: bool = True) -> Tensor:
    """A network's features of a clip.

    Args:
        model: a network in eval mode.
        at: name of the module whose output is taken.
        frames_TCHW: the frames of the clip, normalized.
        per_frame: run a 2D network on every frame and stack its maps; else a 3D network on the clip as a whole.

    Returns:
        (1, C, T, H', W'), or (1, C, T', H', W') of a 3D network.

    Raises:
        ValueError: no such module, or its output is not one map with the axes of the input.
    """
    given = frames_TCHW if per_frame else frames_TCHW.transpose(0, 1).unsqueeze(0)
    with capture_outputs({at: find_module(model, at)}) as seen:
        model(given)
    outputs = seen[at]
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].ndim != given.ndim:
        shape = "(T, C, H, W)" if per_frame else "(1, C, T, H, W)"
        raise ValueError(f"{at!r}: expected one output {shape} in a run, got {len(outputs)} of another kind")
    return outputs[0].transpose(0, 1).unsqueeze(0) if per_frame else outputs[0]
