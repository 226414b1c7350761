"""Training of re-identification. The settings are saved with the weights, so a test needs only that file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.distributed.rank import main_process_log, process_count
from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.models.tracklet_net import TrackletNet
from torch_nonlocal.tasks.base import OnError
from torch_nonlocal.tasks.left_out import LEFT_OUT, write_left_out
from torch_nonlocal.tasks.reid.clips import TrainingClips, fingerprint
from torch_nonlocal.tasks.reid.data import Training, training_data
from torch_nonlocal.tasks.reid.evaluation import embedded_retrieval
from torch_nonlocal.tasks.reid.losses import ReidLoss
from torch_nonlocal.tasks.reid.metrics import evaluate_embeddings
from torch_nonlocal.tasks.reid.network import network, start_from
from torch_nonlocal.tasks.reid.settings import IMAGENET, NONE, PLACES, ReidSettings
from torch_nonlocal.tasks.reid.trained_on import CHOSEN_ON, TRAINED_ON, digests_of, digests_of_weights
from torch_nonlocal.training import BatchSampler, Metric, Result, Task, TrainConfig, fit, is_begun
from torch_nonlocal.training.identity_sampler import IdentityBatches
from torch_nonlocal.training.items import Items

_WHITE = 255
_SHOWN = 20  # problems of the data that are printed


def train(
    data: Path | None,
    run_dir: Path,
    settings: ReidSettings,
    config: TrainConfig,
    *,
    on_error: OnError = "skip",
    log: Callable[[str], None] | None = None,
) -> Result:
    """Train on tracklets, or resume the run in `run_dir`.

    Args:
        data: as in `data.training_data`.
        run_dir: folder of the run; tracklets that cannot be read are listed in its broken.jsonl.
        settings: model and data options.
        config: training options.
        on_error: "skip" or "fail" for tracklets that cannot be read.
        log: receives messages, one line each; None prints them.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `training_data`, `network` and `fit`.
    """
    found = training_data(data, settings, config.seed)
    torch.manual_seed(config.seed)
    model = network(settings, found.identities)
    say = main_process_log(log)
    if not is_begun(run_dir):  # otherwise the weights come from the checkpoint
        say(start_from(model, settings))
    for line in (found.summary, *found.notes):
        say(line)
    broken = BrokenClips(run_dir / "broken.jsonl")
    task = ReidTask(model, found, settings, config, on_error, broken)
    task.add_digests(digests_of_weights(settings.weights))
    task.add_digests(digests_of_weights(run_dir / "checkpoints" / "best.pt"))  # the initial weights may be gone
    result = fit(task, config, run_dir, log=log)
    if len(broken):
        say(f"tracklets that could not be read: {len(broken)}, listed in {broken.path}")
    if found.problems:
        say(f"problems of the data: {len(found.problems)}, listed in {run_dir / LEFT_OUT}")
    return result


def check_data(
    data: Path | None, settings: ReidSettings, *, on_error: OnError = "skip", log: Callable[[str], None]
) -> None:
    """Find the tracklets, read one, and build the network, without training.

    Weights that would be downloaded are not loaded.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `training_data`, `network` and `start_from`. The batch size, a
            training option, is checked by `train`.
    """
    found = training_data(data, settings, 0)
    for line in (found.summary, *found.notes, *(f"problem: {one}" for one in found.problems[:_SHOWN])):
        log(line)
    if len(found.problems) > _SHOWN:
        log(f"problem: and {len(found.problems) - _SHOWN:,} more; nonlocal data check lists them")
    _ = TrainingClips(found.source, found.labels, settings, on_error=on_error)[0]
    without = settings if settings.weights != IMAGENET else replace(settings, weights=NONE)
    model = network(without, found.identities)
    log(start_from(model, settings))


class ReidTask(Task):
    """Re-identification for `fit`: cross-entropy and triplet loss, and mAP of held-out identities.

    Args:
        model: a `TrackletNet`.
        data: training tracklets and held-out identities.
        settings: settings of the network and the clips.
        config: its batch size and number of workers are also used for the evaluation.
        on_error: "skip" or "fail" for tracklets that cannot be read.
        broken: receives the tracklets that cannot be read.
    """

    def __init__(
        self,
        model: TrackletNet,
        data: Training,
        settings: ReidSettings,
        config: TrainConfig,
        on_error: OnError,
        broken: BrokenClips,
    ) -> None:
        self._inputs = inputs_of(model)
        fill = [round(value * _WHITE) for value in self._inputs.mean]
        clips = TrainingClips(data.source, data.labels, settings, fill=fill, on_error=on_error, broken=broken)
        kept = {name: value for name, value in asdict(settings).items() if name not in PLACES}
        about = {"task": "reid", **kept, "split": data.split, "identities": data.identities}
        super().__init__(model, clips, about={**about, "inputs": self._inputs.to_dict()})
        self.metric = None if data.validation is None else Metric("mAP")
        held_out = [] if data.validation is None else digests_of(data.validation.source)
        self.extra = {TRAINED_ON: digests_of(data.source), CHOSEN_ON: held_out}
        self._loss = ReidLoss(settings)
        self._data, self._settings, self._config, self._broken = data, settings, config, broken
        self._on_error: OnError = on_error

    def add_digests(self, digests: Mapping[str, Iterable[str]]) -> None:
        """Count the tracklets of the initial weights as trained on, or as held out to choose the weights, too."""
        self.extra = {name: sorted({*own, *digests[name]}) for name, own in self.extra.items()}

    def sampler(self, batch_size: int, seed: int) -> BatchSampler:
        """Batches of identities with `per_identity` tracklets each.

        Raises:
            ValueError: the parts of a batch that are computed at once do not hold whole identities, or only one, so
                that the triplet loss has nothing to compare; or as `IdentityBatches`.
        """
        per_identity = self._settings.per_identity
        parts = self._config.accumulate * process_count()
        if batch_size % (per_identity * parts) or batch_size // parts < 2 * per_identity:
            each = f"per_identity={per_identity} x accumulate={self._config.accumulate}"
            each += f" x {process_count()} processes" if process_count() > 1 else ""
            raise ValueError(
                f"batch_size={batch_size}: expected a multiple of {per_identity * parts} ({each}), and at least twice "
                "that: a forward pass needs all tracklets of two identities or more"
            )
        return IdentityBatches(
            self._data.labels, self._data.cameras, per_identity=per_identity, batch_size=batch_size, seed=seed
        )

    def fingerprint(self) -> Items:
        """The training tracklets and the held-out ones."""
        items = dict(super().fingerprint())
        if self._data.validation is not None:
            items["held out"] = fingerprint(self._data.validation.source)
        return items

    def begin(self, run_dir: Path) -> None:
        """List the problems of the data."""
        write_left_out(run_dir, self._data.problems)

    def prepare(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The batch with normalized clips."""
        clips, labels, indices = batch
        return self._inputs.normalize(clips), labels, indices

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """See `losses.ReidLoss`."""
        clips, labels, _ = batch
        return self._loss(model(clips), labels)

    def head(self, model: nn.Module) -> Sequence[nn.Module]:
        """The classifier, the batch norm before it, and the pool, whose attention is trained."""
        inner: Any = getattr(model, "module", model)
        return [inner.pool, inner.neck, inner.classifier]

    def item_indices(self, batch: tuple[Tensor, Tensor, Tensor], requested: Sequence[int]) -> Sequence[int]:
        """The indices of the tracklets that were read; another one replaces one that cannot be read."""
        return batch[2].tolist()

    def item_name(self, index: int) -> str:
        """The name of a tracklet."""
        return self._data.source.tracklets[index].name

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """mAP, rank 1 and mINP of the held-out identities, by the common protocol and cosine distance."""
        if self._data.validation is None:
            return {}
        options: dict[str, Any] = {"batch": self._config.batch_size, "workers": self._config.workers}
        found = embedded_retrieval(
            model,
            self._data.validation,
            self._settings,
            self._inputs,
            on_error=self._on_error,
            broken=self._broken,
            **options,
        )
        scores = evaluate_embeddings(
            found.query,
            found.gallery,
            *found.labels,
            protocols=("common",),
            query_index=found.query_index,
            metric="cosine",
        )["common"]
        return {"mAP": scores.mean_ap, "rank1": float(scores.cmc[0]), "mINP": scores.mean_inp}
