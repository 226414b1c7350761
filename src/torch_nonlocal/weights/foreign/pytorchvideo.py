"""PyTorchVideo: the block of PySlowFast with "norm" for "bn", without pooling by default. Its networks use no block."""

from torch_nonlocal.weights.foreign.slowfast import MODULES
from torch_nonlocal.weights.foreign.source import Computes, Source, dotted

PYTORCHVIDEO = Source(
    name="pytorchvideo",
    project="PyTorchVideo",
    named=dotted(MODULES),
    computes=lambda block: Computes(
        block.form, None, pool_first=True, scale="sqrt", assumed=("pairwise", "subsample", "scale")
    ),
)
