"""The cost of blocks in a network, computed without changing it."""

from torch_nonlocal.planning.plan import Place, Plan, plan

__all__ = ["Place", "Plan", "plan"]
