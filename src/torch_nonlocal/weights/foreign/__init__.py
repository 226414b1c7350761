"""The sources, one module each. If two use the same tensor names, the first whose `is_own` returns True applies."""

from torch_nonlocal.weights.foreign.agw import AGW
from torch_nonlocal.weights.foreign.alexhex7 import ALEXHEX7
from torch_nonlocal.weights.foreign.caffe2 import CAFFE2
from torch_nonlocal.weights.foreign.cgnl import CGNL
from torch_nonlocal.weights.foreign.gluoncv import GLUONCV
from torch_nonlocal.weights.foreign.mmcv import GCNET, MMCV
from torch_nonlocal.weights.foreign.pytorchvideo import PYTORCHVIDEO
from torch_nonlocal.weights.foreign.slowfast import SLOWFAST
from torch_nonlocal.weights.foreign.source import Source
from torch_nonlocal.weights.foreign.ste_nvan import STE_NVAN
from torch_nonlocal.weights.foreign.tea1528 import TEA1528
from torch_nonlocal.weights.foreign.timm import TIMM

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (AGW, STE_NVAN, GLUONCV, ALEXHEX7, TEA1528, SLOWFAST, PYTORCHVIDEO, MMCV, GCNET, TIMM, CGNL, CAFFE2)
}
