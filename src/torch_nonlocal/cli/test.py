"""`nonlocal test`: scores, confusion matrix and predictions of trained weights."""

import csv
import json
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from torch_nonlocal.tasks import action
from torch_nonlocal.tasks.scores import confusion_picture, worst_mistakes

_WORST = 5


def evaluate(
    task: tyro.conf.Positional[Literal["action"]],
    weights: tyro.conf.Positional[Path],
    *,
    data: Path,
    out: Path = Path("test-out"),
    views: int = 10,
    crops: Literal["1", "3", "full"] = "3",
    batch: int = 8,
    workers: int = 1,
    on_error: Literal["skip", "fail"] = "skip",
) -> None:
    """Test trained weights on the held-out clips: accuracies, F1, confusion matrix, a prediction for each clip.

    Softmax scores are averaged over evenly spread clips of each video and crops of each.

    Example: nonlocal test action runs/action/checkpoints/best.pt --data my-clips

    Args:
        task: action.
        weights: checkpoints/best.pt of a run of nonlocal train.
        data: as in training: its test or validation split, or the fifth that was held out.
        out: folder for scores.json, predictions.csv and confusion.png; made if missing.
        views: clips of a video.
        crops: of each clip: 1, 3, or full for the whole frame.
        batch: crops at a time.
        workers: processes that decode.
        on_error: skip a clip that cannot be read (it is counted), or fail.
    """
    tested = action.evaluate(
        weights,
        data,
        views=views,
        crops=crops if crops == "full" else int(crops),
        batch=batch,
        workers=workers,
        on_error=on_error,
    )
    broken = tested.broken.entries()
    out.mkdir(parents=True, exist_ok=True)
    figures = {
        **tested.scores.plain(),
        "not_read": [entry._asdict() for entry in broken],
        "weights": str(weights),
        "views": views,
        "crops": crops,
    }
    (out / "scores.json").write_text(json.dumps(figures, indent=1) + "\n")
    _write_predictions(tested, out / "predictions.csv")
    confusion_picture(tested.scores, tested.clips.classes).savefig(out / "confusion.png", dpi=120)
    console = Console()
    for name, value in tested.scores.plain().items():
        console.print(f"{name:<11}{value:,}" if name == "clips" else f"{name:<11}{value:.4f}", highlight=False)
    for row in worst_mistakes(tested.probabilities, tested.labels, _WORST):
        clip = tested.clips.clips[int(tested.indices[row])]
        guess = tested.clips.classes[int(tested.probabilities[row].argmax())]
        own = tested.clips.classes[clip.label]
        console.print(f"mistaken: {tested.clips.name(clip)}: {own} taken for {guess}", highlight=False, markup=False)
    if broken:
        console.print(f"{len(broken)} clips could not be read; scores.json names them", highlight=False)
    console.print(f"figures, predictions and picture are in {out}/", highlight=False, markup=False)


def _write_predictions(tested: action.Tested, path: Path) -> None:
    classes = tested.clips.classes
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "class", "predicted", *(f"score {name}" for name in classes)])
        for index, row in zip(tested.indices.tolist(), tested.probabilities, strict=True):
            clip = tested.clips.clips[index]
            scores = [f"{value:.6f}" for value in row.tolist()]
            writer.writerow([tested.clips.name(clip), classes[clip.label], classes[int(row.argmax())], *scores])
