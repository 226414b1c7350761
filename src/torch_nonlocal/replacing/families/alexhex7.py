"""AlexHex7/Non-local_pytorch and its copies in TSM, AP3D, tea1528 and detectron2's DensePose.

The four forms are files of their own with the same class names. Keys are pooled after phi and g, without a scale. The
convolution and the norm after the sum are `W`, `W_z` in tea1528.
"""

from torch_nonlocal.replacing.paper_block import Names, Rule, paper_blocks

_CLASSES = ("NONLocalBlock1D", "NONLocalBlock2D", "NONLocalBlock3D", "NonLocalBlock1D", "NonLocalBlock2D")
_CLASSES += ("NonLocalBlock3D", "_NonLocalBlockND", "NLBlockND")
_NAMES = Names("theta", "phi", "g", ("W", "W_z"), score=("concat_project", "W_f"))
_RULES = tuple(Rule(form) for form in ("embedded_gaussian", "dot_product", "gaussian", "concatenation"))

ALEXHEX7 = tuple(
    paper_blocks("alexhex7", "AlexHex7/Non-local_pytorch, tea1528, or a copy", _CLASSES, _NAMES, own=_RULES)
)
