"""Outputs of modules while a network runs, and runs that leave the network as it was."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def capture_outputs(
    modules: Mapping[str, nn.Module], keep: Callable[[Any], Any] = lambda output: output
) -> Iterator[dict[str, list[Any]]]:
    """Record what modules return while the block of code runs; their hooks are removed afterwards.

    Args:
        modules: by any name.
        keep: what is recorded of an output; the output itself by default.

    Yields:
        For each name a list with one entry per run of the module, filled while the network runs.
    """
    outputs: dict[str, list[Any]] = {name: [] for name in modules}
    handles = []
    try:
        for name, module in modules.items():
            runs = outputs[name]
            hook = lambda _module, _args, output, runs=runs: runs.append(keep(output))  # noqa: E731 (bound per module)
            handles.append(module.register_forward_hook(hook))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


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
def eager() -> Iterator[None]:
    """Run what torch.compile has compiled as plain PyTorch inside the context, so that module hooks are called."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


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
