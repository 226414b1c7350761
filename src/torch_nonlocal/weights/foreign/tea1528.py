"""tea1528/Non-Local-NN-Pytorch: as AlexHex7, but with W_z for W, a bias of w_f and without pooling."""

from torch_nonlocal.weights.foreign.source import Computes, Source, dotted

TEA1528 = Source(
    name="tea1528",
    project="tea1528/Non-Local-NN-Pytorch",
    named=dotted(
        {
            "theta": ("theta",),
            "phi": ("phi",),
            "g": ("g",),
            "out": ("W_z.0", "W_z"),
            "norm": ("W_z.1",),
            "score": ("W_f.0",),
        }
    ),
    computes=lambda block: Computes(
        block.form, None, assumed=("pairwise",) if block.form == "embedded_gaussian" else ()
    ),
)
