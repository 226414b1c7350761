"""Re-identification of handwritten persons with and without a block: the table of docs/reid-evidence.md.

    python benchmarks/reid_persons.py --out bench-out/reid-persons.jsonl
    python benchmarks/reid_persons.py --out docs/reid-evidence.jsonl --markdown docs/reid-evidence.md

Every network is trained by the task's own loop with the settings of the recipe `reid`, and tested with its last weights
on persons that neither training nor the choice of settings used. A finished run is one JSON line in the output file;
rerunning the command skips finished runs. The default is one thread: the results then do not depend on the number of
cores.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from study import Row, Run, Study, costs, shown_costs
from torch_nonlocal import insert
from torch_nonlocal.data.broken import BrokenClips
from torch_nonlocal.data.digit_persons import DigitPersons
from torch_nonlocal.data.person_scenes import LENGTH
from torch_nonlocal.data.tracklets.tracklet import TrackletSource
from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.models.tracklet_net import TrackletNet
from torch_nonlocal.tasks.reid.baseline import histogram_embeddings
from torch_nonlocal.tasks.reid.data import Retrieval, training_data
from torch_nonlocal.tasks.reid.evaluation import embedded_retrieval
from torch_nonlocal.tasks.reid.metrics import evaluate_embeddings
from torch_nonlocal.tasks.reid.network import network
from torch_nonlocal.tasks.reid.recipes import BUILT_IN, RECIPES
from torch_nonlocal.tasks.reid.settings import NONE
from torch_nonlocal.tasks.reid.task import ReidTask
from torch_nonlocal.training import fit

STEPS = 300
IDENTITIES = 240
VIEWS = 2
PLACE = "conv2"
ONE_CLIP = (1, 3, 8, 48, 24)
HEADER = ("network", "rank 1", "deviation", "of each seed", "mAP", "deviation", "parameters", "MFLOPs", "CPU s")
HISTOGRAM, NO_BLOCK = "histogram", "none"

ROWS: dict[str, Row] = {
    HISTOGRAM: Row("color histograms, no training", {"histogram": True}),
    NO_BLOCK: Row("no block", {}),
    "embedded_gaussian": Row("one block within the frame: embedded gaussian", {"block": {"attend": "space"}}),
    "pointwise": Row("no block, 1x1x1 convolutions with as many parameters", {"control": "pointwise"}),
    "dilated": Row("no block, 1x3x3 convolutions dilated by 2 and 4, FLOPs as with the block", {"control": "dilated"}),
    "dot_product": Row(
        "one block within the frame: dot product", {"block": {"attend": "space", "pairwise": "dot_product"}}
    ),
    "spacetime": Row("one block over all frames: embedded gaussian", {"block": {}}),
}
GROUPS: dict[str, tuple[str, ...]] = {
    "with and without": (NO_BLOCK, "embedded_gaussian"),
    "controls": (HISTOGRAM, "pointwise", "dilated"),
    "other blocks": ("dot_product", "spacetime"),
}


class Residual(nn.Module):
    """Residual convolutions that start as the identity: x + norm(convolutions(x))."""

    def __init__(self, channels: int, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers, nn.BatchNorm3d(channels))
        nn.init.zeros_(self.inner[-1].weight)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def control(name: str, channels: int) -> nn.Module:
    """The layers of a control, which take the place of the block."""
    if name == "pointwise":
        return Residual(channels, nn.Conv3d(channels, channels, 1), nn.ReLU(), nn.Conv3d(channels, channels, 1))
    if name != "dilated":
        raise ValueError(f"control: got {name!r}, expected pointwise or dilated")
    inner = 18
    layers: list[nn.Module] = [nn.Conv3d(channels, inner, 1), nn.ReLU()]
    for dilation in (2, 4):
        options: dict[str, Any] = {"padding": (0, dilation, dilation), "dilation": (1, dilation, dilation)}
        layers += [nn.Conv3d(inner, inner, (1, 3, 3), **options), nn.ReLU()]
    return Residual(channels, *layers, nn.Conv3d(inner, channels, 1))


def build(identities: int, configuration: dict[str, Any]) -> TrackletNet:
    """The network of the recipe without its block, with a block or a control at `PLACE`."""
    net = network(replace(RECIPES[BUILT_IN].settings, non_local=NONE), identities)
    if "block" in configuration:
        insert(net.backbone, PLACE, torch.zeros(ONE_CLIP), **configuration["block"])
    if "control" in configuration:
        place = net.backbone.get_submodule(PLACE)
        net.backbone.set_submodule(PLACE, nn.Sequential(place, control(configuration["control"], 48)))
    return net


class Rendered:
    """Tracklets in memory: each is rendered once, not once per epoch."""

    def __init__(self, source: TrackletSource) -> None:
        self.tracklets = source.tracklets
        self._clips = [source.read(index, range(LENGTH)) for index in range(len(source.tracklets))]

    def read(self, index: int, frames: Sequence[int]) -> Tensor:
        return self._clips[index][:, list(frames)]


def run(name: str, seed: int, steps: int, clips: int) -> Run:
    """Train a network and rank the test persons; the results as JSON values."""
    configuration = ROWS[name].configuration
    settings, config = RECIPES[BUILT_IN].settings, RECIPES[BUILT_IN].config
    persons = DigitPersons("test", identities=clips)
    retrieval = Retrieval(persons, persons.query, persons.gallery)
    record: Run = {"name": name, "configuration": configuration, "seed": seed, "steps": steps, "clips": clips}
    if name == HISTOGRAM:
        vectors = histogram_embeddings(persons, range(len(persons.tracklets)))
        query, gallery = vectors[list(persons.query)], vectors[list(persons.gallery)]
        labels = [
            torch.tensor(values)[list(at)]
            for at in (persons.gallery, persons.query)
            for values in (retrieval.identities, retrieval.cameras)
        ]
        return record | scores_of(query, gallery, labels) | {"loss": 0.0, "cpu_seconds": 0.0}
    data = replace(training_data(None, settings, 0), validation=None)
    data = replace(data, source=Rendered(data.source))
    config = replace(config, steps=steps, seed=seed, workers=0)
    torch.manual_seed(seed)
    net = build(data.identities, configuration)
    started = time.process_time()
    with TemporaryDirectory() as folder:
        task = LastLoss(net, data, settings, config, "fail", BrokenClips())
        result = fit(task, config, Path(folder, "run"), log=lambda line: None)
    seconds = time.process_time() - started
    if result.status != "finished":
        raise SystemExit("interrupted; rerun the command to repeat this run")
    found = embedded_retrieval(net.eval(), retrieval, settings, inputs_of(net), views=VIEWS, batch=64)
    labels = [found.gallery_ids, found.gallery_cameras, found.query_ids, found.query_cameras]
    record |= scores_of(found.query, found.gallery, labels) | {"loss": round(statistics.mean(task.losses[-50:]), 5)}
    return record | costs(net, ONE_CLIP, seconds)


class LastLoss(ReidTask):
    """The task, which keeps its losses."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.losses: list[float] = []

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        losses = super().loss(model, batch)
        self.losses.append(float(losses["loss"].detach()))
        return losses


def scores_of(query: Any, gallery: Any, labels: Sequence[Any]) -> Run:
    """Rank 1, which the study calls accuracy, and mAP, by the common protocol and cosine distance."""
    found = evaluate_embeddings(query, gallery, *labels, protocols=("common",), metric="cosine")["common"]
    return {"accuracy": round(float(found.cmc[0]), 5), "mAP": round(float(found.mean_ap), 5)}


def cells(name: str, found: Sequence[Run]) -> list[str]:
    """The cells of the runs of a network."""
    columns: dict[str, list[float]] = {key: [one[key] for one in found] for key in ("accuracy", "mAP")}
    means = {key: f"{statistics.mean(values):.3f}" for key, values in columns.items()}
    if name == HISTOGRAM:  # no seed changes it
        return [means["accuracy"], "", "", means["mAP"], "", "", "", ""]
    deviations = {key: f"{statistics.stdev(values):.3f}" if len(values) > 1 else "" for key, values in columns.items()}
    each = ", ".join(f"{value:.3f}" for value in columns["accuracy"])
    scored = [means["accuracy"], deviations["accuracy"], each, means["mAP"], deviations["mAP"]]
    return [*scored, *shown_costs(found, 1)]


STUDY = Study("reid-persons", ROWS, GROUPS, HEADER, cells, STEPS, 64, clips=IDENTITIES)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then print the table."""
    STUDY.main(arguments, __doc__, run)


if __name__ == "__main__":
    main()
