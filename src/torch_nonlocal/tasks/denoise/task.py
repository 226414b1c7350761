"""Training of the denoising task. The settings are saved with the weights, so a test needs only that file."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal._common.files import write_text
from torch_nonlocal._common.seeds import mix_seed
from torch_nonlocal._common.text import listed
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.distributed.rank import main_process_log
from torch_nonlocal.tasks.base import OnError
from torch_nonlocal.tasks.denoise.crops import NoisyCrops
from torch_nonlocal.tasks.denoise.images import Images, Source, source
from torch_nonlocal.tasks.denoise.network import DenoisingNet, network, parameter_count, with_noise_map
from torch_nonlocal.tasks.denoise.quality import psnr, with_noise
from torch_nonlocal.tasks.denoise.settings import LEVELS, PLACES, DenoiseSettings
from torch_nonlocal.training import Metric, Result, Task, TrainConfig, fit
from torch_nonlocal.training.items import Items

VALIDATION_SIGMAS = (15, 25, 50)
_VALIDATION_SIDE = 192
_VALIDATION_IMAGES = 12


def train(
    data: Path | None,
    run_dir: Path,
    settings: DenoiseSettings,
    config: TrainConfig,
    *,
    on_error: OnError = "skip",
    log: Callable[[str], None] | None = None,
) -> Result:
    """Train on a folder of images or on photographs of scikit-image, or resume the run in `run_dir`.

    Args:
        data: as in `images.source`.
        run_dir: folder of the run; unreadable images are listed in its broken.jsonl.
        settings: model and data options.
        config: training options.
        on_error: "skip" or "fail" for images that cannot be read.
        log: receives messages, one line each; None prints them.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `images.source` and `fit`.
    """
    broken = BrokenClips()
    images = source(data, settings, on_error, broken)
    torch.manual_seed(config.seed)
    task = DenoiseTask(network(settings), images, settings, broken)
    say = main_process_log(log)
    for line in (*_lines(images, broken), _size(task.model, settings)):
        say(line)
    return fit(task, config, run_dir, log=log)


def check_data(
    data: Path | None, settings: DenoiseSettings, *, on_error: OnError = "skip", log: Callable[[str], None]
) -> None:
    """Read the images and build the network, without training.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `images.source`.
    """
    broken = BrokenClips()
    images = source(data, settings, on_error, broken)
    for line in (*_lines(images, broken), _size(network(settings), settings)):
        log(line)


def _lines(images: Source, broken: BrokenClips) -> list[str]:
    """What is printed about the images at the start of a run."""
    lines = [images.summary, *(f"left out: {one}" for one in images.left_out)]
    unread = broken.entries()
    if unread:
        reasons = listed([entry.reason for entry in unread], most=3)
        lines.append(f"images that could not be read: {len(unread)}: {reasons}")
    return lines


def _size(model: nn.Module, settings: DenoiseSettings) -> str:
    middle = "a non-local block" if settings.non_local == "one" else "1 x 1 convolutions in place of a block"
    return f"network: {parameter_count(model):,} parameters, {settings.depth} convolutions and {middle}"


class DenoiseTask(Task):
    """Denoising for `fit`: mean absolute error of crops, and PSNR on validation images.

    Args:
        model: a `DenoisingNet`.
        images: training and validation images.
        settings: settings of the network and the noise.
        broken: the images that could not be read, listed in the run folder.
    """

    def __init__(self, model: DenoisingNet, images: Source, settings: DenoiseSettings, broken: BrokenClips) -> None:
        kept = {name: value for name, value in asdict(settings).items() if name not in PLACES}
        crops = NoisyCrops(images.training, settings)
        super().__init__(model, crops, about={"task": "denoise", **kept})
        self._crops, self._validation, self._broken = crops, images.validation, broken
        self.metric = Metric("psnr") if len(images.validation) else None
        self.extra = {
            "trained_on": [images.training.digest(name) for name in images.training.names],
            "chosen_on": [images.validation.digest(name) for name in images.validation.names],
        }

    def fingerprint(self) -> Items:
        """The training images and the validation images."""
        return {**super().fingerprint(), "validation": self._validation.fingerprint()}

    def begin(self, run_dir: Path) -> None:
        """List the images that could not be read."""
        listed_in = run_dir / "broken.jsonl"
        if entries := self._broken.entries():
            write_text(listed_in, "".join(f"{json.dumps(entry._asdict())}\n" for entry in entries))
        else:
            listed_in.unlink(missing_ok=True)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Mean absolute error, which weighs strong noise less than the squared error does."""
        noisy, clean, _ = batch
        return {"loss": F.l1_loss(model(noisy), clean)}

    def item_name(self, index: int) -> str:
        """The image that a crop is taken from."""
        return f"a crop of {self._crops.name(index)}"

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """PSNR in dB on the middle of the validation images, for each noise ("psnr_25") and its mean ("psnr")."""
        return validation_psnr(model, self._validation)


def validation_psnr(model: nn.Module, images: Images) -> dict[str, float]:
    """See `DenoiseTask.evaluate`. The noise is the same in every evaluation and run."""
    if not len(images):
        return {}
    parameter = next(model.parameters())
    found: dict[str, float] = {}
    for sigma in VALIDATION_SIGMAS:
        values = []
        for number, name in enumerate(images.names[:_VALIDATION_IMAGES]):
            clean = _middle(images.pixels[name]).float().div(LEVELS)[None]
            noisy = with_noise(clean, sigma / LEVELS, mix_seed(number, sigma))
            given = with_noise_map(noisy, sigma / LEVELS).to(parameter)
            values.append(psnr(model(given).float().cpu().clamp(0, 1), clean))
        found[f"psnr_{sigma}"] = sum(values) / len(values)
    return {"psnr": sum(found.values()) / len(found), **found}


def _middle(image_CHW: Tensor) -> Tensor:
    top, left = (max(0, size - _VALIDATION_SIDE) // 2 for size in image_CHW.shape[1:])
    return image_CHW[:, top : top + _VALIDATION_SIDE, left : left + _VALIDATION_SIDE]
