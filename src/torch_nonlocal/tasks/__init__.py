"""Tasks: data, network, loss, metrics and recipes in one package each, and the registry of tasks (`base`)."""

from torch_nonlocal.tasks.base import Recipe, TaskSpec, get_task, register, task_names

__all__ = ["Recipe", "TaskSpec", "get_task", "register", "task_names"]
