"""Networks made faster on a CPU: `optimize` measures and chooses, `convolutions` computes."""

from torch_nonlocal.optimization.optimize import Optimized, optimize

__all__ = ["Optimized", "optimize"]
