"""How much blocks contribute to an output: gradient times activation, and the size of what a block adds."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.own_hooks import own_hooks


def gradient_times_activation(
    model: nn.Module, module: nn.Module, inputs: Tensor, target: Callable[[Any], Tensor]
) -> Tensor:
    """Contribution of each position of a module's output to a scalar: gradient times activation, summed over channels.

    The gradient starts at the module's output, so nothing before it is kept for the backward pass. The gradients and
    flags of the model's parameters do not change, not even for a moment: other threads may use the model.

    Args:
        model: called as `model(inputs)`, in the mode it is in.
        module: a module of the model that returns one map (B, C, *size).
        inputs: the model's input.
        target: maps the model's output to a scalar, such as the difference of two class scores.

    Returns:
        (B, *size), float32 or better.

    Raises:
        ValueError: the module does not run.

    Reference: Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations, 2020.
    """
    kept: list[Tensor] = []

    def start_here(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # of this thread, until the run ends
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()  # later modules may work in place

    with own_hooks() as hooks:
        hooks.after(module, start_here)
        with torch.no_grad():
            output = model(inputs)
            if not kept:
                raise ValueError(f"the module ({type(module).__name__}) does not run in a forward pass of the model")
        with torch.enable_grad():
            gradient = torch.autograd.grad(target(output), kept[-1])[0]
    product = gradient * kept[-1].detach()
    return product.to(torch.promote_types(product.dtype, torch.float32)).sum(1)


@contextmanager
def added_magnitudes(blocks: Mapping[str, nn.Module]) -> Iterator[dict[str, float]]:
    """Measure what residual blocks add: norm of (output - input) / norm of the input, in runs of this thread.

    Args:
        blocks: modules with one tensor in and one of the same shape out, by name, such as `nl.blocks(model)`.

    Yields:
        The ratio by name, of each block's last run; blocks that have not run are absent.

    Example:
        >>> with added_magnitudes(nl.blocks(model)) as added:
        ...     model(clip)
    """
    added: dict[str, float] = {}

    def measure(name: str) -> Callable[..., None]:
        def hook(_block: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            x = args[0].detach()
            size = torch.linalg.vector_norm(x).clamp_min(torch.finfo(output.dtype).tiny)
            added[name] = float(torch.linalg.vector_norm(output.detach() - x) / size)

        return hook

    with own_hooks() as hooks:
        for name, block in blocks.items():
            hooks.after(block, measure(name))
        yield added
