"""NonLocal1d, 2d and 3d of mmcv, which mmaction2's networks use, and NonLocal2D of GCNet's mmdetection.

Their convolutions are children "conv" of ConvModules. Keys are pooled after phi and g. The embedded Gaussian form is
scaled unless use_scale=False; GCNet's code divides by D^-0.5, which is a factor D^0.5.
"""

from torch_nonlocal.replacing.paper_block import Names, Rule, paper_blocks

_NAMES = Names("theta", "phi", "g", ("conv_out",), score=("concat_project",))
_FORMS = (Rule("embedded_gaussian"), Rule("dot_product"), Rule("gaussian"), Rule("concatenation"))

MMCV = (
    *paper_blocks(
        "mmcv",
        "mmcv or mmaction2",
        ("NonLocal1d", "NonLocal2d", "NonLocal3d", "_NonLocalNd"),
        _NAMES,
        own=(Rule("embedded_gaussian", "inner"), *_FORMS),
    ),
    *paper_blocks(
        "gcnet",
        "GCNet",
        ("NonLocal2D",),
        _NAMES,
        own=(Rule("embedded_gaussian", "inverse"), *_FORMS),
    ),
)
