"""Galleries: vectors of tracklets in files, searched by similarity. It knows no network."""

from typing import TYPE_CHECKING

from torch_nonlocal._common.lazy import lazy_exports

if TYPE_CHECKING:
    from torch_nonlocal.gallery.manifest import By, EmbeddingModel, IndexInfo, OtherModelError, Threshold
    from torch_nonlocal.gallery.parts import DamagedGalleryError
    from torch_nonlocal.gallery.store import Answer, Gallery, Match, open_gallery
    from torch_nonlocal.gallery.table import Entry
    from torch_nonlocal.gallery.writing import add, build, delete, recalibrate

__all__ = [
    "Answer",
    "By",
    "DamagedGalleryError",
    "EmbeddingModel",
    "Entry",
    "Gallery",
    "IndexInfo",
    "Match",
    "OtherModelError",
    "Threshold",
    "add",
    "build",
    "delete",
    "open_gallery",
    "recalibrate",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Answer": ".store",
        "By": ".manifest",
        "DamagedGalleryError": ".parts",
        "EmbeddingModel": ".manifest",
        "Entry": ".table",
        "Gallery": ".store",
        "IndexInfo": ".manifest",
        "Match": ".store",
        "OtherModelError": ".manifest",
        "Threshold": ".manifest",
        "add": ".writing",
        "build": ".writing",
        "delete": ".writing",
        "open_gallery": ".store",
        "recalibrate": ".writing",
    },
    extra="reid",
)
