"""`nonlocal predict`: the classes of clips, or of a long video over time."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from torch_nonlocal._common.files import check_new_file, printable
from torch_nonlocal._common.progress import ProgressBar
from torch_nonlocal._common.terminal import print_errors, print_lines, terminal
from torch_nonlocal._common.text import counted
from torch_nonlocal.cli import needs
from torch_nonlocal.cli.threads import use_free_cores

if TYPE_CHECKING:
    from torch_nonlocal.data.broken import BrokenClips
    from torch_nonlocal.tasks.action.classifier import ActionClassifier, Prediction

_VIEWS = 10
_NOTES = 20  # that are printed
_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0, "min": 60.0, "h": 3600.0}
_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


def predict(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    clips: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="CLIP|FOLDER|GLOB...")],
    *,
    top: int = 5,
    every: Annotated[str, tyro.conf.arg(metavar="TIME")] = "",
    json: _File = None,
    csv: _File = None,
    parquet: _File = None,
    picture: _File = None,
    overwrite: bool = False,
    views: int | None = None,
    crops: Literal["1", "3", "full"] = "3",
    threshold: float = 0.5,
    batch_size: int = 8,
    workers: int = 1,
    network: str = "",
) -> None:
    """Predict the classes of clips, or embed tracklets, with a network that nonlocal train action or reid trained.

    Prints the most probable classes of each clip. The probabilities are those of nonlocal test. In a clip with fewer
    frames than the network takes, frames repeat, and a note says so. Clips that cannot be read are named and skipped;
    the exit code is 1 if there are any. With a network of nonlocal train reid, the clips are tracklets: the most
    similar other tracklet of each is printed, and files hold the embeddings; --top, --every, --picture, --crops and
    --threshold do not apply.

    Example: nonlocal predict runs/action/checkpoints/best.pt clip.mp4

    Example: nonlocal predict runs/action/checkpoints/best.pt film.mp4 --every 1s --picture film.png

    Example: nonlocal predict runs/reid/checkpoints/best.pt tracklets/* --csv embeddings.csv

    Args:
        checkpoint: checkpoints/best.pt of a run, or the folder of the run.
        clips: videos, folders with videos or with the frames of a clip, and patterns such as "clips/*.mp4".
        top: number of classes that are printed for each clip.
        every: predict over time, once per interval of this length, such as 1s, 500ms or 2min.
        json: also write the predictions to this JSON file, with the clips that cannot be read.
        csv: also write a table to this CSV file, with the columns clip, label, probability, label_2, probability_2,
            and so on, and "probability NAME" of each class, unless there are more than 100.
        parquet: also write the same table to this Parquet file.
        picture: draw the probabilities over time to this PNG, PDF or SVG file; needs --every and one video.
        overwrite: replace output files that exist.
        views: evenly spaced clips per video, 10 by default (2 for re-identification); the probabilities or embeddings
            are averaged. With --every there is one per interval.
        crops: crops per view: 1, 3, or full for the whole frame. Moving digits are not cropped.
        threshold: probability from which a class is predicted, if clips can have several classes.
        batch_size: crops per forward pass.
        workers: processes that decode videos; not used with --every.
        network: FILE.py:FUNCTION, if the network is defined in a Python file. The file is executed, so its name is not
            taken from the checkpoint.
    """
    for name, value, least in (
        ("top", top, 1),
        ("views", 1 if views is None else views, 1),
        ("batch-size", batch_size, 1),
        ("workers", workers, 0),
    ):
        if value < least:
            raise ValueError(f"--{name} {value}: expected {least} or more")
    seconds = _seconds(every)
    _check_outputs({"--json": json, "--csv": csv, "--parquet": parquet, "--picture": picture}, overwrite)
    more = {**({"pyarrow": "parquet"} if parquet else {}), **({"matplotlib": "view"} if picture else {})}
    needs.check("predict", packages=list(more), extras=list(more.values()))
    from torch_nonlocal.data.broken import BrokenClips
    from torch_nonlocal.data.given_clips import given_clips
    from torch_nonlocal.tasks.action import prediction_files
    from torch_nonlocal.tasks.loading import load

    if picture is not None and picture.suffix not in prediction_files.PICTURES:
        raise ValueError(f"--picture {picture}: expected a name that ends in {', '.join(prediction_files.PICTURES)}")
    paths, problems = given_clips(clips)
    if picture is not None and (seconds is None or len(paths) != 1):
        missing = "--every" if seconds is None else f"one video, got {len(paths)} clips"
        raise ValueError(f"--picture draws a time line: expected {missing}")
    use_free_cores(print_errors)
    model = _on_device(load(checkpoint, network=network))
    if model.task == "reid":
        given = {"top": top != 5, "every": bool(every), "picture": bool(picture)}
        _check_no_classes({**given, "crops": crops != "3", "threshold": threshold != 0.5}, checkpoint)
        from torch_nonlocal.cli.embeddings import predict_embeddings

        files = {"json": json, "csv": csv, "parquet": parquet}
        reading: dict[str, Any] = {"views": views, "batch_size": batch_size, "workers": workers}
        predict_embeddings(model, paths, problems, weights=checkpoint, files=files, **reading)
        return
    if model.task != "action":
        raise ValueError(f"{checkpoint}: weights of the task {model.task}, expected those of action or reid")
    broken = BrokenClips()
    shape = {"crops": crops if crops == "full" else int(crops), "threshold": threshold, "batch": batch_size}
    with ProgressBar("predict", unit="views" if seconds is None else "intervals") as bar:
        if seconds is None:
            how = {**shape, "views": views or _VIEWS, "workers": workers}
            found = model.predict_files(paths, broken=broken, on_views=bar.update, **how)
        else:
            found = _time_lines(model, paths, seconds, broken, bar, shape)
    entries = broken.entries()
    if found:
        if json is not None:
            prediction_files.write_predictions_json(json, model, found, entries, weights=str(checkpoint), top=top)
        if csv is not None:
            prediction_files.write_predictions_csv(csv, model, found, top=top)
        if parquet is not None:
            prediction_files.write_predictions_parquet(parquet, model, found, top=top)
        if picture is not None:
            prediction_files.write_time_picture(picture, model, found)
        terminal().print((_clip_table if seconds is None else _time_table)(model, found, top))
        for line in _notes(model, found, seconds):
            print_lines(line)
    for entry in entries:
        print_lines(f"{entry.kind}: {entry.reason}")
    for problem in problems:
        print_lines(f"problem: {problem}")
    if found:
        for path in filter(None, (json, csv, parquet, picture)):
            print_lines(f"written: {path}")
    elif any((json, csv, parquet, picture)):
        print_lines("nothing is written: no clip can be read")
    if entries or problems:
        print_lines(f"{len(entries)} of {len(paths)} clips not read, {len(problems)} other problems")
        sys.exit(1)


def _time_lines(
    model: "ActionClassifier", paths: Sequence[Path], every: float, broken: "BrokenClips", bar: ProgressBar, shape: dict
) -> list["Prediction"]:
    from torch_nonlocal.media import BrokenVideoError
    from torch_nonlocal.tasks.action.time_line import time_line

    found = []
    for path in paths:
        bar.update(0, description=printable(path.name))
        try:
            found += time_line(model, path, every=every, on_rows=bar.update, **shape)
        except BrokenVideoError as error:
            broken.add(path, error)
    return found


def _check_no_classes(given: dict[str, bool], checkpoint: Path) -> None:
    for name, is_given in given.items():
        if is_given:
            raise ValueError(f"--{name}: {checkpoint} is a network of re-identification, which has no classes")


def _on_device(model: Any) -> Any:
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _check_outputs(files: dict[str, Path | None], overwrite: bool) -> None:
    used: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        check_new_file(path, option, overwrite=overwrite)
        other = used.setdefault(path.absolute(), option)
        if other != option:
            raise ValueError(f"{other} and {option} name the same file, {path}")


def _seconds(text: str) -> float | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?(ms|s|min|h|)", text.strip())
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not value > 0:
        raise ValueError(f"--every {text}: expected a time above 0, such as 1s, 500ms or 2min")
    return value


def _clip_table(model: "ActionClassifier", found: Sequence["Prediction"], top: int) -> Table:
    table = _table("clip", "label", model)
    for one in found:
        for number, (name, probability) in enumerate(one.top(top)):
            cells = [_text(one.clip) if not number else "", _text(name), f"{probability:.3f}"]
            table.add_row(*cells, *(["yes" if name in one.labels else ""] if model.is_multi_label else []))
    return table


def _time_table(model: "ActionClassifier", found: Sequence["Prediction"], top: int) -> Table:
    table = _table("time", "label", model, more=("next",) if top > 1 and len(model.classes) > 1 else ())
    clip = ""
    for one in found:
        if one.clip != clip and found[0].clip != found[-1].clip:
            table.add_row(_text(one.clip))
        clip = one.clip
        cells = [_clock(one.start or 0.0), _text(one.label), f"{one.probability:.3f}"]
        cells += ["yes" if one.label in one.labels else ""] if model.is_multi_label else []
        following = ", ".join(f"{name} {probability:.3f}" for name, probability in one.top(top)[1:])
        table.add_row(*cells, *([_text(following)] if following else []))
    return table


def _notes(model: "ActionClassifier", found: Sequence["Prediction"], every: float | None) -> list[str]:
    """What the rows of a time line cover, and the clips or rows in which frames repeat."""
    noted = [one for one in found if one.note]
    if every is None:
        lines = [f"note: {printable(one.clip)}: {one.note}" for one in noted[:_NOTES]]
        more = len(noted) - _NOTES
        return [*lines, f"and {more} more clips with repeated frames"] if more > 0 else lines
    schedule, rate = model.settings.schedule, model.settings.fps
    if schedule.is_uniform:
        parts = f"one frame of each of {schedule.length} equal parts"
        lines = [f"each row covers its own interval of {every:g} s: {parts}"]
    else:
        time = "" if rate is None else f" at {rate:g} fps, {(schedule.span or 0) / rate:.1f} s"
        lines = [f"each row covers {counted(schedule.span or 0, 'frame')}{time} around the middle of its interval"]
    if noted:
        hint = "; a larger --every gives them more frames" if schedule.is_uniform else ""
        rows = f"{len(noted)} of {counted(len(found), 'row')}"
        lines.append(f"note: {rows} with too few frames, such as {noted[0].note}{hint}")
    return lines


def _table(first: str, second: str, model: "ActionClassifier", more: tuple[str, ...] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (first, second):
        table.add_column(name, overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    if model.is_multi_label:
        table.add_column("predicted", no_wrap=True)
    for name in more:
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    return table


def _clock(seconds: float) -> str:
    """Time as 0:01:02.50, without hours below one and without fractions of whole seconds."""
    hundredths = round(seconds * 100)
    minutes, rest = divmod(hundredths, 6000)
    text = f"{rest // 100:02d}" + (f".{rest % 100:02d}" if rest % 100 else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def _text(text: str) -> str:
    return escape(printable(text))
