"""The sum of eq. 1 for a block, and for a module of another project with the same options."""

from typing import Any

from torch import Tensor

from torch_nonlocal import functional
from torch_nonlocal.functional import Algorithm


def weighted_sum(
    options: Any, query: Tensor, key: Tensor, g_BMV: Tensor, frames: int | None, algorithm: Algorithm = "auto"
) -> Tensor:
    """Return the weighted sums y (B', N, V).

    Args:
        options: a `NonLocal` or a `Computed`.
        query: theta (B', N, D), or a (B', N) of the form "concatenation".
        key: phi (B', M, D), or b (B', M).
        g_BMV: values, (B', M, V).
        frames: the number of frames of the positions, if the sums are causal over frames; None for sums over all keys.
        algorithm: as in `torch_nonlocal.functional`.
    """
    given: dict[str, Any] = {"algorithm": algorithm}
    if frames is not None:
        given |= {"frames": frames, "window_frames": options.window_frames}
    if options.pairwise == "dot_product":
        y_BNV = functional.dot_product(query, key, g_BMV, **given)
        return y_BNV * (key.shape[1] / query.shape[1]) if options.normalize == "queries" else y_BNV
    if options.pairwise == "concatenation":
        return functional.concatenation(query, key, g_BMV, **given)
    if options.selection:
        given |= _selected(options, key.shape[1])
    return functional.embedded_gaussian(query, key, g_BMV, scale=options.scale, normalize=options.normalize, **given)


def _selected(block: Any, keys: int) -> dict[str, Any]:
    """Return the arguments that select keys: at most all of a last window; without Gumbel noise in eval mode."""
    selection = block.selection
    if selection.top_k is not None:
        return {"top_k": selection.top_k if block.windows is None else min(selection.top_k, keys)}
    return {"hard": selection.hard if block.training else True, "temperature": selection.temperature}
