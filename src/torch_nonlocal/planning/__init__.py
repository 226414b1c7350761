"""What blocks would cost in a network, before anything is changed."""

from torch_nonlocal.planning.plan import Place, Plan, plan

__all__ = ["Place", "Plan", "plan"]
