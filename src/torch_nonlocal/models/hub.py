"""Models with `save_pretrained`, `from_pretrained` and `push_to_hub` of Hugging Face; needs `torch-nonlocal[hub]`.

A folder or a repository on the hub contains config.json (the arguments of `HubModel`) and model.safetensors. Only
`from_pretrained` with the name of a repository and `push_to_hub` access the internet.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from torch_nonlocal._common.optional import missing
from torch_nonlocal.models.registry import create_model

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError as error:
    raise ImportError(missing(["huggingface_hub"])) from error


class HubModel(nn.Module, PyTorchModelHubMixin, library_name="torch-nonlocal", tags=["video-classification"]):
    """A model of `create_model` that is saved to and loaded from a folder or the hub.

    Args:
        name: one of `nl.list_models()`.
        num_classes: width of the last layer.
        non_local: places of the blocks: "paper-1", "paper-5", "paper-10" or module names; None for no blocks.
        block_options: options of the blocks, plain JSON values.

    Example:
        >>> HubModel("i3d_resnet50", non_local="paper-5").save_pretrained("my-model")
        >>> model = HubModel.from_pretrained("my-model")
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int = 400,
        non_local: str | Sequence[str] | None = None,
        block_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = block_options or {}
        self.network = create_model(name, num_classes=num_classes, non_local=non_local, **options)
        self.inputs = self.network.inputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, num_classes)."""
        return self.network(x)
