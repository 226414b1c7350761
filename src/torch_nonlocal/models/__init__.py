"""Networks by name, with the description of their inputs."""

from typing import TYPE_CHECKING

from torch_nonlocal._common.lazy import lazy_exports

if TYPE_CHECKING:
    from torch_nonlocal.models.inputs import Inputs, inputs_of
    from torch_nonlocal.models.registry import create_model, list_models
    from torch_nonlocal.models.relation_net import RelationNet
    from torch_nonlocal.models.video_resnet import VideoResNet

__all__ = ["Inputs", "RelationNet", "VideoResNet", "create_model", "inputs_of", "list_models"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Inputs": ".inputs",
        "RelationNet": ".relation_net",
        "VideoResNet": ".video_resnet",
        "create_model": ".registry",
        "inputs_of": ".inputs",
        "list_models": ".registry",
    },
)
