"""STE-NVAN: blocks for clips, such as "NL_2.0", beside the stages, with the tensor names of AlexHex7.

Its networks "nonlocal", "stripe", "hr" and "stripe_hr" have the same tensors. `NonLocalBlock` attends as usual and
divides the dot product by the number of queries, also if it pools the keys. `Stripe_NonLocalBlock` averages horizontal
stripes first and attends between stripes, which no block of torch-nonlocal does. The "hr" networks pool frames by two
between their stages, and apply blocks to pairs of frames.
"""

from collections.abc import Mapping
from typing import Any

from torch_nonlocal.weights.foreign.agw import STAGE, beside_stages
from torch_nonlocal.weights.foreign.alexhex7 import MODULES
from torch_nonlocal.weights.foreign.source import Computes, FoundBlock, Source, Stated, dotted, module_notes

_STRIPES = "it averages horizontal stripes and attends between stripes, which no block of torch-nonlocal does"
_FORMS = {"soft": "embedded_gaussian", "dot": "dot_product"}


def _is_own(block: FoundBlock) -> bool:
    g = block.tensors.get("g.weight")
    return g is not None and g.ndim == 5 and g.shape[0] > 1 and STAGE.fullmatch(block.name) is not None


def _stated(facts: Mapping[str, Any], block: FoundBlock) -> Stated:
    """The class of a block and its attribute `instance`, in files that hold a whole module."""
    g, out = block.tensors.get("g.weight"), block.tensors.get("out.weight")
    if g is not None and out is not None and g.shape[1] == 2 * out.shape[0]:
        raise ValueError(f"{block.name!r} is a Stripe_NonLocalBlock of STE-NVAN: {_STRIPES}")
    notes = module_notes(facts, block.name)
    if "Stripe" in str(notes.get("class")):
        raise ValueError(f"{block.name!r} is a {notes['class']} of STE-NVAN: {_STRIPES}")
    network = str(module_notes(facts, block.name.rpartition("NL_")[0].rstrip(".")).get("class"))
    if network.endswith("_hr"):
        raise ValueError(f"{block.name!r} is in a {network} of STE-NVAN, which applies blocks to pairs of frames")
    pairwise = _FORMS.get(str(notes.get("instance")))
    return Stated({"pairwise": pairwise}, "the module in the file") if pairwise else Stated()


STE_NVAN = Source(
    name="ste-nvan",
    project="STE-NVAN",
    named=dotted(MODULES),
    computes=lambda block: Computes(
        block.form, 2 if block.pools_after else None, assumed=("pairwise",), dot_by_queries=block.pools_after
    ),
    is_own=_is_own,
    place=beside_stages,
    stated=_stated,
    unsure=(
        "its NonLocalBlock and its Stripe_NonLocalBlock have the same tensors and compute different functions. If the "
        "network is its 'nonlocal', source='ste-nvan' (--source ste-nvan) converts it; the blocks of 'stripe' and "
        f"'stripe_hr' have no equivalent: {_STRIPES}; 'hr' applies blocks to pairs of frames"
    ),
)
