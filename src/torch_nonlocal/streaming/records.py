"""Records of causal blocks in a stream: the weights of the newest frames over the frames that the blocks keep."""

from collections.abc import Sequence

from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.weights import PairWeights
from torch_nonlocal.functional import CausalFrames
from torch_nonlocal.streaming.cache import BlockCache


def record_of(name: str, cache: BlockCache, batch: int, pixels: Sequence[int]) -> BlockRecord:
    """Return the record of a block that keeps its queries.

    Args:
        name: name of the block.
        cache: what it keeps.
        batch: B.
        pixels: (H, W) of the frames that the network takes.
    """
    assert cache.queries is not None
    block, frames = cache.block, cache.queries.count
    grid = (frames, *cache.grid[1:])
    pool = block.subsample or (1, 1, 1)
    key_grid = block.key_grid(grid)
    weights = PairWeights(
        block.pairwise,
        cache.queries.until(0).clone(),
        cache.keys.until(0).clone(),
        block.scale,
        block.normalize,
        CausalFrames(frames, block.window_frames),
    )
    geometry = Geometry.evenly(grid, key_grid, pool, (frames, *pixels), strided=block.keys == "stride")
    return BlockRecord(name, weights, geometry, attend=block.attend, batch=batch)
