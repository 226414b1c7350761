"""Run a network to find where its features come from, and leave it unchanged."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.capture import eager, evaluating
from torch_nonlocal.layers import NonLocal

_BYPASSED = (NonLocal, nn.GroupNorm, nn.modules.batchnorm._NormBase)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Hooks that are part of a network's computation: those of torch (weight norm, pruning) and of inserted blocks.
_KEPT_HOOKS = ("torch.", "torch_nonlocal.insertion")


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a model for its structure alone: normalization layers and non-local blocks return their input.

    Inside, the model is in eval mode, without gradients, without autocast and without the hooks of others. Afterwards
    modes, hooks, statistics and random state are restored. cuDNN and NNPACK are off inside: some of their convolutions
    mix neighboring positions in intermediate results, which would spread a NaN beyond the true receptive field.
    """
    kinds = {tensor.device.type for tensor in model.parameters()} or {"cpu"}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(torch.backends.nnpack.flags(enabled=False))
        stack.enter_context(eager())
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        for module in list(model.modules()):
            for kind in _HOOKS:
                hooks = module.__dict__[kind]
                stack.callback(module.__dict__.__setitem__, kind, hooks)
                module.__dict__[kind] = OrderedDict((key, hook) for key, hook in hooks.items() if _is_kept(hook))
            if isinstance(module, _BYPASSED):
                stack.callback(_restore_forward, module, module.__dict__.get("forward"))
                module.__dict__["forward"] = _identity
        yield


def _is_kept(hook: Any) -> bool:
    source = getattr(hook, "__module__", None) or type(hook).__module__
    return source.startswith(_KEPT_HOOKS)


def _identity(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _restore_forward(module: nn.Module, own: Any) -> None:
    if own is None:
        del module.__dict__["forward"]
    else:
        module.__dict__["forward"] = own
