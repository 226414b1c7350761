"""Re-identification on image pairs (PRID450S, or another set with random splits), with and without blocks.

For each split: the embedding of the untrained network (ImageNet weights), and networks trained without and with two
non-local blocks, with the same seed and steps. One line of JSON per result; rerun the command to resume.

    python benchmarks/reid_images.py ../shared/data/prid450s --splits 10 --out docs/reid-images.jsonl
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from torch_nonlocal.tasks.base import get_task
from torch_nonlocal.tasks.reid.data import retrieval_data
from torch_nonlocal.tasks.reid.evaluation import embedded_retrieval
from torch_nonlocal.tasks.reid.metrics import evaluate_embeddings
from torch_nonlocal.tasks.reid.network import network
from torch_nonlocal.tasks.reid.settings import NONE, ReidSettings
from torch_nonlocal.tasks.reid.trained import read_trained

KINDS = ("untrained", "without", "with")


def settings_for(kind: str, split: int) -> tuple[ReidSettings, Any]:
    """Settings and configuration of a run."""
    recipe = get_task("reid").recipe("reid-small")
    places = recipe.settings.non_local if kind == "with" else NONE
    images = replace(recipe.settings, frames="uniform-1", per_identity=2, held_out=0.0, split=split, non_local=places)
    return images, replace(recipe.config, epochs=10, lr=1e-3, seed=split, workers=0, eval_every=1000)


def measured(data: Path, kind: str, split: int) -> dict[str, Any]:
    """One result: a row of the file."""
    settings, config = settings_for(kind, split)
    began, steps = time.process_time(), 0
    if kind == "untrained":
        torch.manual_seed(split)
        model = network(settings, 2).eval()
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = get_task("reid").train(data, Path(folder), settings, config, log=lambda line: None)
            steps, model = result.steps, read_trained(Path(folder)).model.network.eval()
    trained = time.process_time() - began
    retrieval, _ = retrieval_data(data, settings, split)
    found = embedded_retrieval(model, retrieval, settings, model.inputs)
    labels = found.gallery_ids, found.gallery_cameras, found.query_ids, found.query_cameras
    pair = found.query, found.gallery
    scores = evaluate_embeddings(*pair, *labels, protocols=("common",), query_index=found.query_index, metric="cosine")
    seconds = round(trained, 1)
    return {"kind": kind, "split": split, "steps": steps, "cpu_seconds": seconds, **scores["common"].plain()}


def main() -> None:
    """Measure what is missing, and print the averages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the images")
    parser.add_argument("--splits", type=int, default=10, help="number of random splits")
    parser.add_argument("--out", type=Path, default=Path("docs/reid-images.jsonl"), help="file of the results")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["kind"], row["split"]) for row in rows}
    for split in range(options.splits):
        for kind in KINDS:
            if (kind, split) not in done:
                row = measured(options.data, kind, split)
                rows.append(row)
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"split {split}, {kind}: rank 1 {row['rank1']:.4f}, mAP {row['mean_ap']:.4f}", flush=True)
    for kind in KINDS:
        for name in ("rank1", "mean_ap"):
            values = torch.tensor([row[name] for row in rows if row["kind"] == kind], dtype=torch.float64)
            spread = f" +- {float(values.std()):.4f}" if len(values) > 1 else ""
            print(f"{kind:<10} {name:<8} {float(values.mean()):.4f}{spread} ({len(values)} splits)")


if __name__ == "__main__":
    main()
