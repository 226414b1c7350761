"""Relatives of the non-local block: other published attention modules, as blocks over the same operation.

A class maps (B, C, *size) to the same shape. All but the gates are the identity when they are new.
`torch_nonlocal.insert(model, at, block="gcnet")` selects one by its name, `torch_nonlocal.list_blocks()` lists them.
"""

from torch_nonlocal.layers.relatives.base import Relative
from torch_nonlocal.layers.relatives.cgnl import CompactGeneralizedNonLocal
from torch_nonlocal.layers.relatives.criss_cross import CrissCross
from torch_nonlocal.layers.relatives.danet import DANet, DANetChannel, DANetPosition
from torch_nonlocal.layers.relatives.disentangled import DisentangledNonLocal
from torch_nonlocal.layers.relatives.efficient import DoubleAttention, EfficientAttention
from torch_nonlocal.layers.relatives.gates import CBAM, SqueezeExcitation
from torch_nonlocal.layers.relatives.global_context import GlobalContext
from torch_nonlocal.layers.relatives.pyramid import FusionNonLocal, PyramidNonLocal

__all__ = [
    "CBAM",
    "CompactGeneralizedNonLocal",
    "CrissCross",
    "DANet",
    "DANetChannel",
    "DANetPosition",
    "DisentangledNonLocal",
    "DoubleAttention",
    "EfficientAttention",
    "FusionNonLocal",
    "GlobalContext",
    "PyramidNonLocal",
    "Relative",
    "SqueezeExcitation",
]
