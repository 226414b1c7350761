"""SpatialNL of cgnl-network.pytorch: t, p, g, z without biases, and "bn". Its networks scale the softmax by d^-1/2."""

from torch_nonlocal.weights.foreign.source import Computes, Source, dotted

CGNL = Source(
    name="cgnl",
    project="cgnl-network.pytorch's NL",
    named=dotted({"theta": ("t",), "phi": ("p",), "g": ("g",), "out": ("z",), "norm": ("bn",)}),
    computes=lambda block: Computes(block.form, None, scale="sqrt", assumed=("scale",)),
)
