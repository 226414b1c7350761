"""The features a network has at one place, for a clip."""

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip_features(model: nn.Module, at: str, frames_TCHW: Tensor) -> Tensor:
    """A 2D network's features of every frame, side by side as a clip: (T, 3, H, W) -> (1, C, T, H', W').

    Args:
        model: a 2D network, run as it is (set eval mode before).
        at: name of the module whose output is taken.
        frames_TCHW: its input, one frame a batch item.

    Raises:
        ValueError: no such module, or its output is not (T, C, H', W').
    """
    try:
        module = model.get_submodule(at)
    except AttributeError as error:
        names = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"no module {at!r}; modules: {names}, and those inside them") from error
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        model(frames_TCHW)
    finally:
        handle.remove()
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or outputs[0].ndim != 4:
        raise ValueError(f"{at!r}: expected one output (T, C, H, W) in a run, got {len(outputs)} of another kind")
    return outputs[0].transpose(0, 1).unsqueeze(0)
