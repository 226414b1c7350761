"""Blocks of re-identification networks, with the names of AlexHex7: AGW, fast-reid and STE-NVAN.

AGW and fast-reid compute the dot product. STE-NVAN divides it by the number of queries, also where it pools the keys.
"""

from torch_nonlocal.replacing.paper_block import Names, Rule, paper_blocks

_NAMES = Names("theta", "phi", "g", ("W",))

REID = (
    *paper_blocks("agw", "AGW or fast-reid", ("Non_local",), _NAMES, own=(Rule("dot_product"),)),
    *paper_blocks(
        "ste-nvan",
        "STE-NVAN",
        ("NonLocalBlock",),
        _NAMES,
        own=(Rule("embedded_gaussian"), Rule("dot_product", normalize="queries")),
    ),
)
