"""FLOP formulas of the operators of this package, registered with PyTorch's counter on first use.

Importing `torch.utils.flop_counter` takes longer than importing the rest of this package and also imports triton.
Therefore this module does not import it. `announce` runs before each operator and registers the formulas if the counter
has been imported, including with counters that are already running.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

_formulas: dict[Any, Callable[..., int]] = {}
_announced = False


def flop_formula(operator: Any) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Return a decorator for the formula of an operator: from shapes of arguments to FLOPs, two per multiply-add."""

    def keep(formula: Callable[..., int]) -> Callable[..., int]:
        _formulas[operator] = formula
        return formula

    return keep


def announce() -> None:
    """Register all formulas with PyTorch's counter if it has been imported. Further calls do nothing."""
    global _announced
    if torch.compiler.is_compiling() or _announced or "torch.utils.flop_counter" not in sys.modules:
        return
    counter = sys.modules["torch.utils.flop_counter"]
    for operator, formula in _formulas.items():
        counter.register_flop_formula(operator)(formula)
    known = {operator: counter.flop_registry[operator] for operator in _formulas}
    for mode in _get_current_dispatch_mode_stack():  # a running counter holds a copy of the registry
        registry = getattr(getattr(mode, "counter", mode), "flop_registry", None)
        if isinstance(registry, dict):
            registry.update(known)
    _announced = True
