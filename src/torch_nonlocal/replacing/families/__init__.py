"""The families, one file each. The numerical check decides between those with the same class names."""

from torch_nonlocal.replacing.families.alexhex7 import ALEXHEX7
from torch_nonlocal.replacing.family import Family

FAMILIES: dict[str, Family] = {family.name: family for family in (*ALEXHEX7,)}
