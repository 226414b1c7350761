"""AGW (ReID-Survey) and fast-reid: dot product with one inner channel, blocks such as "NL_2.0" beside the stages.

Tensor names are those of AlexHex7. Its code computes the inner width as `reduc_ratio // reduc_ratio`, which is 1; the
published weights have that width. STE-NVAN has blocks of the same names, but for clips.
"""

import re
from collections.abc import Collection

from torch_nonlocal.weights.foreign.alexhex7 import MODULES
from torch_nonlocal.weights.foreign.source import Computes, FoundBlock, Source, dotted
from torch_nonlocal.weights.places import Place, follow

STAGE = re.compile(r"(?P<owner>(?:.+\.)?)NL_(?P<stage>\d)\.(?P<index>\d+)")


def _is_own(block: FoundBlock) -> bool:
    g = block.tensors.get("g.weight")
    if g is None or g.ndim < 3:
        return False
    return g.shape[0] == 1 < g.shape[1] or (g.ndim == 4 and STAGE.fullmatch(block.name) is not None)


def beside_stages(block: str, blocks: Collection[str], keys: Collection[str]) -> Place:
    """n blocks "NL_2.0", "NL_2.1", ... follow the last n residual blocks of layer2."""
    match = STAGE.fullmatch(block)
    if match is None:
        return follow(block, blocks, keys)
    beside = f"{match['owner']}NL_{match['stage']}."
    count = sum(one.startswith(beside) for one in blocks)
    for stage in (f"{match['owner']}layer{match['stage']}", f"{match['owner']}base.layer{match['stage']}"):
        heads = {key[len(stage) + 1 :].partition(".")[0] for key in keys if key.startswith(f"{stage}.")}
        depth = sum(head.isdigit() for head in heads)
        if depth >= count:
            return Place(f"{stage}.{depth - count + int(match['index'])}")
    return Place(
        block, f"{block}: the file has no layer{match['stage']}, so the place is unknown; '{block}=NAME' sets it"
    )


AGW = Source(
    name="agw",
    project="AGW (ReID-Survey) or fast-reid",
    named=dotted(MODULES),
    computes=lambda block: Computes(
        "dot_product" if block.form == "embedded_gaussian" else block.form, 2 if block.pools_after else None
    ),
    is_own=_is_own,
    place=beside_stages,
)
