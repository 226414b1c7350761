"""The families, one file each. The numerical check decides between those with the same class names."""

from torch_nonlocal.replacing.families.alexhex7 import ALEXHEX7
from torch_nonlocal.replacing.families.diffusers import DIFFUSERS
from torch_nonlocal.replacing.families.dnl import DNL
from torch_nonlocal.replacing.families.gan import GAN
from torch_nonlocal.replacing.families.gluoncv import GLUONCV
from torch_nonlocal.replacing.families.hunyuan import HUNYUAN
from torch_nonlocal.replacing.families.ldm import LDM
from torch_nonlocal.replacing.families.mmcv import MMCV
from torch_nonlocal.replacing.families.monai import MONAI
from torch_nonlocal.replacing.families.pfnl import PFNL
from torch_nonlocal.replacing.families.reid import REID
from torch_nonlocal.replacing.families.slowfast import SLOWFAST
from torch_nonlocal.replacing.families.spatial import SPATIAL
from torch_nonlocal.replacing.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for families in (
        ALEXHEX7,
        DIFFUSERS,
        DNL,
        GAN,
        GLUONCV,
        HUNYUAN,
        LDM,
        MMCV,
        MONAI,
        PFNL,
        REID,
        SLOWFAST,
        SPATIAL,
    )
    for family in families
}
