"""The sources, one module each. Where two name their tensors alike, the first whose `is_own` agrees is taken."""

from torch_nonlocal.checkpoints.source import Source
from torch_nonlocal.checkpoints.sources.agw import AGW
from torch_nonlocal.checkpoints.sources.alexhex7 import ALEXHEX7
from torch_nonlocal.checkpoints.sources.caffe2 import CAFFE2
from torch_nonlocal.checkpoints.sources.cgnl import CGNL
from torch_nonlocal.checkpoints.sources.gluoncv import GLUONCV
from torch_nonlocal.checkpoints.sources.mmcv import GCNET, MMCV
from torch_nonlocal.checkpoints.sources.pytorchvideo import PYTORCHVIDEO
from torch_nonlocal.checkpoints.sources.slowfast import SLOWFAST
from torch_nonlocal.checkpoints.sources.tea1528 import TEA1528
from torch_nonlocal.checkpoints.sources.timm import TIMM

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (AGW, GLUONCV, ALEXHEX7, TEA1528, SLOWFAST, PYTORCHVIDEO, MMCV, GCNET, TIMM, CGNL, CAFFE2)
}
