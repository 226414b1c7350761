"""Run a network for our own purposes and leave no trace of it."""

import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.layers import NonLocal

_PASSED_OVER = (NonLocal, nn.GroupNorm, nn.modules.batchnorm._NormBase)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Hooks that are part of a network's computation: torch's own (weight norm, pruning) and the blocks'.
_KEPT_HOOKS = ("torch.", "torch_nonlocal.insertion")


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside: eval mode, no gradients, no autocast, no foreign hooks; normalisation and blocks return their input.

    Afterwards modes, hooks, statistics and random state are as they were. cuDNN and NNPACK are off inside: some of
    their convolutions mix neighbours in intermediate results, which would spread a NaN further than it belongs.
    """
    modules = list(model.modules())
    kinds = {tensor.device.type for tensor in model.parameters()} or {"cpu"}
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(torch.backends.nnpack.flags(enabled=False))
        stack.enter_context(eagerly())
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        for module in modules:
            stack.callback(module.__dict__.update, {"training": module.training})
            module.__dict__["training"] = False
            for kind in _HOOKS:
                hooks = module.__dict__[kind]
                stack.callback(module.__dict__.__setitem__, kind, hooks)
                module.__dict__[kind] = OrderedDict((key, hook) for key, hook in hooks.items() if _is_kept(hook))
            if isinstance(module, _PASSED_OVER):
                stack.callback(_restore_forward, module, module.__dict__.get("forward"))
                module.__dict__["forward"] = _unchanged
        yield


@contextmanager
def eagerly() -> Iterator[None]:
    """Inside, what torch.compile has compiled runs as plain PyTorch, so that hooks are called."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; importing it would take seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _is_kept(hook: Any) -> bool:
    source = getattr(hook, "__module__", None) or type(hook).__module__
    return source.startswith(_KEPT_HOOKS)


def _unchanged(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _restore_forward(module: nn.Module, own: Any) -> None:
    if own is None:
        del module.__dict__["forward"]
    else:
        module.__dict__["forward"] = own
