"""Drawings of attention weights: heatmaps, arrows between frames, videos and an interactive page.

The package draws what it is given; it runs no model.

A clip is (T, H, W, 3) or grayscale (T, H, W), an image (H, W, 3) or (H, W): uint8 in [0, 255] or floats in [0, 1], a
tensor or an array, of any length and aspect ratio. A row is the weights of one query over all keys, (T', H', W') on the
block's grid, which may be coarser than the clip in time and in space; each cell covers an equal share of the clip.

Importing this package imports no optional package. The first drawing imports numpy, Pillow and matplotlib; if one is
missing, it raises an ImportError that names `pip install 'torch-nonlocal[view]'`.
"""

from typing import TYPE_CHECKING

from torch_nonlocal._common.lazy import lazy_exports

if TYPE_CHECKING:
    from torch_nonlocal.view.facts import BlockFacts, Facts
    from torch_nonlocal.view.link_arrows import arrows
    from torch_nonlocal.view.movie import video
    from torch_nonlocal.view.overlays import compare, heatmap, overlay
    from torch_nonlocal.view.page import Page, save_page
    from torch_nonlocal.view.picture import Picture

__all__ = ["BlockFacts", "Facts", "Page", "Picture", "arrows", "compare", "heatmap", "overlay", "save_page", "video"]

# No submodule has the name of a public function: importing it would replace the function by the module.
__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "BlockFacts": ".facts",
        "Facts": ".facts",
        "Page": ".page",
        "Picture": ".picture",
        "arrows": ".link_arrows",
        "compare": ".overlays",
        "heatmap": ".overlays",
        "overlay": ".overlays",
        "save_page": ".page",
        "video": ".movie",
    },
    extra="view",
)
