"""Video files in and out: frames by their exact index, clips as MP4 and GIF; from frames to a network's input.

PyAV (which ships its own FFmpeg) and Pillow are imported when a function needs them; a missing one raises an
ImportError that names `pip install 'torch-nonlocal[video]'`. The transforms need torchvision
(`pip install 'torch-nonlocal[train]'`).
"""

from typing import TYPE_CHECKING

from torch_nonlocal._common.lazy import lazy_exports

if TYPE_CHECKING:
    from torch_nonlocal.media.broken import BrokenVideoError
    from torch_nonlocal.media.decode import VideoInfo, probe, read_clip, read_sampled
    from torch_nonlocal.media.encode import write_gif, write_mp4
    from torch_nonlocal.media.sampling import Schedule, parse_schedule, random_clip, uniform_clips
    from torch_nonlocal.media.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, TrainTransform

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
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

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "IMAGENET_MEAN": ".transforms",
        "IMAGENET_STD": ".transforms",
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
