"""The names of the options of the operation, as types."""

from typing import Literal

Pairwise = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]
"""The pairwise function f(x_i, x_j)."""

Normalize = Literal["keys", "queries"]
"""The axis over which softmax weights sum to one: the keys of each query, or the queries of each key."""

Algorithm = Literal["auto", "dense", "tiled", "fused", "reassociated", "sorted"]
"""How the sums are computed. `torch_nonlocal.functional.ALGORITHMS` lists the algorithms of each form."""
