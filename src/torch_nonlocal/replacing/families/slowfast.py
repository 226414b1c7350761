"""Nonlocal of PySlowFast and NonLocal of PyTorchVideo: the input is pooled before phi and g, the softmax is scaled."""

from torch_nonlocal.replacing.paper_block import Names, Rule, paper_blocks

_NAMES = Names("conv_theta", "conv_phi", "conv_g", ("conv_out", "bn", "norm"), pool="pool")
_RULES = (Rule("embedded_gaussian", "inner"), Rule("dot_product"))

SLOWFAST = (
    *paper_blocks("slowfast", "PySlowFast", ("Nonlocal",), _NAMES, own=_RULES),
    *paper_blocks("pytorchvideo", "PyTorchVideo", ("NonLocal",), _NAMES, own=_RULES),
)
