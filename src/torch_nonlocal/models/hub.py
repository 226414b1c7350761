"""Models with `save_pretrained`, `from_pretrained` and `push_to_hub` of Hugging Face; needs `torch-nonlocal[hub]`.

A folder or a repository on the hub contains config.json (the arguments of `HubModel`) and model.safetensors. Only
`from_pretrained` with the name of a repository and `push_to_hub` access the internet.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torch_nonlocal._common.optional import missing
from torch_nonlocal._common.plain_values import check_entries, fits, read_json, shown
from torch_nonlocal._common.tensor_files import read_weights, write_tensors
from torch_nonlocal.layers.options import check_option_names
from torch_nonlocal.models.fitting import limited_to, load_exactly
from torch_nonlocal.models.registry import create_model

try:
    from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
except ImportError as error:
    raise ImportError(missing(["huggingface_hub"])) from error


CONFIG, WEIGHTS = "config.json", "model.safetensors"
_MAX_CLASSES, _MAX_PLACES, _MAX_PLACE = 1_000_000, 100, 200


class HubModel(nn.Module, PyTorchModelHubMixin, library_name="torch-nonlocal", tags=["video-classification"]):
    """A model of `create_model` that is saved to and loaded from a folder or the hub.

    Args:
        name: one of `nl.list_models()`.
        num_classes: width of the last layer.
        non_local: places of the blocks: "paper-1", "paper-5", "paper-10", "nvan" or module names; None for no blocks.
        block_options: options of the blocks, plain JSON values.

    Raises:
        ValueError: a value of another type or out of range, an unknown name or place.
        TypeError: an unknown block option.

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
        _check_arguments(name, num_classes, non_local, options)
        self.network = create_model(name, num_classes=num_classes, non_local=non_local, **options)
        self.inputs = self.network.inputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, num_classes)."""
        return self.network(x)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> "HubModel":
        """Load a model from a folder or the hub, in eval mode. Nothing in its files is executed.

        Args:
            pretrained_model_name_or_path: a folder of `save_pretrained`, or the name of a repository on the hub.
            **options: those of `PyTorchModelHubMixin.from_pretrained`, such as revision, and arguments of `HubModel`
                that replace the saved ones.

        Raises:
            FileNotFoundError: the folder lacks config.json or model.safetensors.
            ValueError: a file is damaged, the configuration is not one of `HubModel`, or the tensors are not exactly
                those of the model.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            _check_config(folder / CONFIG)
        try:
            return super().from_pretrained(str(pretrained_model_name_or_path), **options)
        except (TypeError, RecursionError, AttributeError) as error:  # of a configuration from the hub
            raise ValueError(f"{folder}: {CONFIG} does not describe a HubModel: {shown(error)}") from error

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: Any = "cpu", strict: bool = True, **options: Any
    ) -> "HubModel":
        download = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        where = {name: options.pop(name, None) for name in download}
        path = Path(model_id, WEIGHTS)
        if not Path(model_id).is_dir():
            where = {name: value for name, value in where.items() if value is not None}
            path = Path(hf_hub_download(repo_id=model_id, filename=WEIGHTS, **where))
        tensors = read_weights(path).tensors
        try:
            with limited_to(tensors):
                model = cls(**options)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{Path(model_id, CONFIG)}: {shown(error)}") from error
        load_exactly(model, tensors, source=str(path))
        return model.to(map_location).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_tensors(save_directory / WEIGHTS, tensors, {"format": "pt"}, key="state_dict")


def _check_config(path: Path) -> None:
    """Require a configuration of `HubModel`, before the hub's reader gets it."""
    if not path.exists():
        raise FileNotFoundError(f"no {CONFIG} in {path.parent}; expected a folder of HubModel.save_pretrained")
    config = read_json(path, "a configuration of HubModel")
    try:
        check_entries(config, {"name": str})
    except ValueError as error:
        raise ValueError(f"{path} is not a configuration of HubModel: {error}") from error


def _check_arguments(name: Any, num_classes: Any, non_local: Any, options: Any) -> None:
    if not fits(name, str):
        raise ValueError(f"name={shown(name)}: expected the name of a model")
    if not fits(num_classes, int) or not 1 <= num_classes <= _MAX_CLASSES:
        raise ValueError(f"num_classes={shown(num_classes)}: expected a number from 1 to {_MAX_CLASSES:,}")
    places = [non_local] if isinstance(non_local, str) else non_local
    if places is not None and not (
        isinstance(places, list | tuple)
        and len(places) <= _MAX_PLACES
        and all(fits(one, str) and len(one) <= _MAX_PLACE for one in places)
    ):
        raise ValueError(f"non_local={shown(non_local)}: expected a place or a list of at most {_MAX_PLACES} places")
    if not isinstance(options, Mapping) or not all(fits(key, str) for key in options):
        raise ValueError(f"block_options={shown(options)}: expected options by name")
    check_option_names("HubModel", options)
