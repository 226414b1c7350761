"""AlexHex7/Non-local_pytorch and its copies in TSM, AP3D and detectron2's DensePose.

The block pools after phi and g and does not scale. With pooling, g is the first of two modules ("g.0"). W is a
convolution and a norm ("W.0", "W.1"), or the convolution alone.
"""

from torch_nonlocal.weights.foreign.source import Computes, FoundBlock, Source, dotted

MODULES = {
    "theta": ("theta",),
    "phi": ("phi.0", "phi"),
    "g": ("g.0", "g"),
    "out": ("W.0", "W"),
    "norm": ("W.1",),
    "score": ("concat_project.0",),
}


def _computes(block: FoundBlock) -> Computes:
    alike = block.form == "embedded_gaussian"
    return Computes(
        pairwise=block.form,
        subsample=2 if block.pools_after else None,
        assumed=("pairwise", "scale") if alike else ("scale",) if block.form == "gaussian" else (),
    )


ALEXHEX7 = Source(
    name="alexhex7",
    project="AlexHex7/Non-local_pytorch or a copy",
    named=dotted(MODULES),
    computes=_computes,
)
