"""FLOP formulas of our operators, made known to PyTorch's counter once somebody uses it.

Importing `torch.utils.flop_counter` takes longer than the rest of this package and brings triton with it, so it is not
imported here: `announce`, called before each operator, registers the formulas when the counter has been imported, also
with counters that are already running.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

_formulas: dict[Any, Callable[..., int]] = {}
_announced = False


def flop_formula(operator: Any) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Decorator: the formula of an operator, from the shapes of its arguments to operations (two a multiply-add)."""

    def keep(formula: Callable[..., int]) -> Callable[..., int]:
        _formulas[operator] = formula
        return formula

    return keep


def announce() -> None:
    """Register all formulas, once, if the counter is in use."""
    global _announced
    if torch.compiler.is_compiling() or _announced or "torch.utils.flop_counter" not in sys.modules:
        return
    counter = sys.modules["torch.utils.flop_counter"]
    for operator, formula in _formulas.items():
        counter.register_flop_formula(operator)(formula)
    known = {operator: counter.flop_registry[operator] for operator in _formulas}
    for mode in _get_current_dispatch_mode_stack():  # a running counter has copied the registry
        registry = getattr(getattr(mode, "counter", mode), "flop_registry", None)
        if isinstance(registry, dict):
            registry.update(known)
    _announced = True
