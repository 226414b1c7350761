"""NonLocalAttn of timm and SpatialNL of cgnl-network.pytorch: t, p, g, z and a norm.

timm's scale is that of the input width. cgnl scales by the inner width with use_scale=True. Some of its copies have
sequences as input and normalize over the queries.
"""

from torch_nonlocal.replacing.paper_block import Names, Rule, paper_blocks

_RULES = (Rule("embedded_gaussian", "inner"), Rule("embedded_gaussian"))

SPATIAL = (
    *paper_blocks(
        "timm",
        "timm",
        ("NonLocalAttn",),
        Names("t", "p", "g", ("z", "norm")),
        own=(Rule("embedded_gaussian", "input"), Rule("embedded_gaussian")),
    ),
    *paper_blocks("cgnl", "cgnl-network.pytorch", ("SpatialNL",), Names("t", "p", "g", ("z", "bn", "gn")), own=_RULES),
)
