"""Drawing what a position looks at: heatmaps, arrows between frames, films. No model code.

A clip is (T, H, W, 3) or (T, H, W) grey, an image (H, W, 3) or (H, W): uint8 in [0, 255] or floats in [0, 1], a tensor
or an array, any length and any aspect ratio. A row holds the weights of one query over all keys, (T', H', W') on the
block's own grid, which may be coarser than the clip in time and in space; each cell covers its share of the clip.

Importing this package imports nothing; numpy, Pillow and matplotlib come with the first drawing. A missing one raises
an ImportError that names `pip install 'torch-nonlocal[view]'`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_nonlocal.view.link_arrows import arrows
    from torch_nonlocal.view.movie import video
    from torch_nonlocal.view.overlays import compare, heatmap, overlay
    from torch_nonlocal.view.page import save_page
    from torch_nonlocal.view.picture import Picture

__all__ = ["Picture", "arrows", "compare", "heatmap", "overlay", "save_page", "video"]

# No module may bear the name of a public function: importing it would put the module in the function's place.
_HOME = {
    "Picture": "picture",
    "arrows": "link_arrows",
    "compare": "overlays",
    "heatmap": "overlays",
    "overlay": "overlays",
    "save_page": "page",
    "video": "movie",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("torch_nonlocal"):
            raise
        raise ImportError(f"drawing needs {error.name!r}: pip install 'torch-nonlocal[view]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
