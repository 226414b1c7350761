"""Replacement of other projects' attention modules in live networks.

`families` has one file per project; `check` compares a module with its family; `swap` exchanges the forward in place;
`cost` predicts memory and time; `replace` does all of it and returns the `report`.
"""

from torch_nonlocal.replacing.replace import replace, restore
from torch_nonlocal.replacing.report import Found, Predicted, Replacement

__all__ = ["Found", "Predicted", "Replacement", "replace", "restore"]
