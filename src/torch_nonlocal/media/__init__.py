"""Video files: decoding by exact frame index, encoding to MP4 and GIF, frame sampling and transforms.

PyAV (which ships its own FFmpeg) and Pillow are imported by the functions that need them; a missing one raises an
ImportError that names `pip install 'torch-nonlocal[video]'`. The transforms need torchvision
(`pip install 'torch-nonlocal[train]'`).
"""

import warnings
from typing import TYPE_CHECKING, Any

from torch_nonlocal._common.lazy import lazy_exports

if TYPE_CHECKING:
    from torch_nonlocal.media.broken import BrokenVideoError
    from torch_nonlocal.media.decode import VideoInfo, probe, read_clip, read_sampled
    from torch_nonlocal.media.encode import write_gif, write_mp4
    from torch_nonlocal.media.sampling import Schedule, parse_schedule, random_clip, uniform_clips
    from torch_nonlocal.media.transforms import EvalTransform, TrainTransform

__all__ = [
    "BrokenVideoError",
    "EvalTransform",
    "Schedule",
    "TrainTransform",
    "VideoInfo",
    "parse_schedule",
    "probe",
    "random_clip",
    "read_clip",
    "read_sampled",
    "uniform_clips",
    "write_gif",
    "write_mp4",
]

_get, __dir__ = lazy_exports(
    __name__,
    {
        "BrokenVideoError": ".broken",
        "EvalTransform": ".transforms",
        "Schedule": ".sampling",
        "TrainTransform": ".transforms",
        "VideoInfo": ".decode",
        "parse_schedule": ".sampling",
        "probe": ".decode",
        "random_clip": ".sampling",
        "read_clip": ".decode",
        "read_sampled": ".decode",
        "uniform_clips": ".sampling",
        "write_gif": ".encode",
        "write_mp4": ".encode",
    },
)
_MOVED = {"IMAGENET_MEAN": "mean", "IMAGENET_STD": "std"}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        return _get(name)
    from importlib import import_module  # by name: media imports no model

    warnings.warn(
        f"torch_nonlocal.media.{name} is deprecated; use torch_nonlocal.models.inputs.IMAGENET.{_MOVED[name]}",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module("torch_nonlocal.models.inputs").IMAGENET, _MOVED[name])
