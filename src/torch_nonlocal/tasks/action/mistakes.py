"""The worst mistakes of a test: a picture of each, and a list and a page of all."""

import html
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from torch_nonlocal._common.files import printable
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.tasks.action import task as action
from torch_nonlocal.tasks.action.metrics import worst_mistakes
from torch_nonlocal.tasks.action.mistake_picture import draw, look_at
from torch_nonlocal.tasks.action.task import Tested

INDEX = "mistakes.json"
PAGE = "index.html"
_CLASSES = 5


@dataclass(frozen=True)
class Mistake:
    """A clip that was taken for another class.

    Attributes:
        clip: its name below the data's folder.
        true: its class.
        guess: the class with the highest score.
        scores: softmax scores, averaged over views, of the five highest classes and the true one, highest first.
        picture: name of the picture's file; "" if there is none.
        block: the block shown; "" if none is.
        query: the position that the arrows start from, (frame, y, x) in pixels of the view; None without arrows.
        note: why there is no picture, or no arrow in it; "" if there are.
    """

    clip: str
    true: str
    guess: str
    scores: dict[str, float]
    picture: str = ""
    block: str = ""
    query: tuple[float, ...] | None = None
    note: str = ""

    @property
    def outcome(self) -> str:
        """What was taken for what, and how surely."""
        scores = f"score {self.scores[self.guess]:.2f}, true class {self.scores[self.true]:.2f}"
        return f"{self.true} taken for {self.guess} ({scores})"

    def __str__(self) -> str:
        return f"{self.clip}: {self.outcome}"


def show_mistakes(weights: Path, tested: Tested, folder: Path, *, count: int) -> list[Mistake]:
    """`save_mistakes` with the network of a file of weights, and of each clip the middle view of the test.

    Args:
        weights: what was tested.
        tested: the outcome.
        folder: for all files; made if missing.
        count: mistakes at most.

    Raises:
        ImportError: matplotlib is missing.
    """
    model, settings, _ = action.load(weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepare = partial(action.prepare, settings)
    return save_mistakes(model.to(device), tested, _MiddleViews(tested), folder, count=count, prepare=prepare)


def save_mistakes(
    model: nn.Module,
    tested: Tested,
    read: Callable[[int], Tensor],
    folder: Path,
    *,
    count: int,
    prepare: Callable[[Tensor], Tensor],
) -> list[Mistake]:
    """Draw the worst mistakes, and list them in mistakes.json and index.html; what an earlier list shows is removed.

    Args:
        model: the network that was tested, in eval mode.
        tested: the outcome.
        read: gives a view of a clip, (C, T, H, W) uint8, by the index into `tested.clips`.
        folder: for all files; made if missing.
        count: mistakes at most, those first whose true class had the least score.
        prepare: makes the network's input of views (B, C, T, H, W).

    Raises:
        ImportError: matplotlib is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _forget(folder)
    found = []
    for rank, row in enumerate(worst_mistakes(tested.probabilities, tested.labels, count), 1):
        mistake, (guess, true) = _mistake(tested, row)
        try:
            view_CTHW = read(int(tested.indices[row]))
        except BrokenVideoError as error:
            reason = printable(str(error))
            mistake = replace(mistake, note=f"no picture: the clip cannot be read any more: {reason}")
        else:
            look, note = look_at(model, prepare(view_CTHW[None]), guess=guess, true=true)
            mistake = replace(mistake, picture=f"{rank:02}-{safe_name(mistake.clip)}.png", note=note)
            if look:
                mistake = replace(mistake, block=look.record.name, query=look.query)
            draw(view_CTHW.permute(1, 2, 3, 0), look, _lines(mistake)).save(folder / mistake.picture, optimize=True)
        found.append(mistake)
    (folder / INDEX).write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    (folder / PAGE).write_text(_page(found), encoding="utf-8")
    return found


def safe_name(clip: str) -> str:
    """A clip's path as part of a file's name: letters, digits, "-", "_" and "." of ASCII, 60 characters at most."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", re.sub(r"\.\w{1,5}$", "", clip, flags=re.ASCII))
    return plain[-60:].strip("._-") or "clip"


class _MiddleViews:
    """The middle crop of the middle clip of each video that was tested, by the index into the test's clips."""

    def __init__(self, tested: Tested) -> None:
        self._tested = tested
        self._each = len(tested.views) // len(tested.clips)  # pyright: ignore[reportArgumentType]

    def __call__(self, index: int) -> Tensor:
        item = self._tested.views[index * self._each + self._each // 2]
        if item is None:
            path = str(self._tested.clips.clips[index].path)
            reason = next(entry.reason for entry in self._tested.broken.entries() if entry.path == path)
            raise BrokenVideoError(reason, "damaged")
        view = item[0]
        return view if view.ndim == 4 else view[len(view) // 2]


def _mistake(tested: Tested, row: int) -> tuple[Mistake, tuple[int, int]]:
    """What is known before anything is drawn, and the two classes."""
    scores_K, true = tested.probabilities[row], int(tested.labels[row])
    names = [printable(name) for name in tested.clips.classes]
    guess = int(scores_K.argmax())
    order = dict.fromkeys([guess, *scores_K.topk(min(_CLASSES, len(names))).indices.tolist(), true])
    listed = {names[k]: round(float(scores_K[k]), 6) for k in order}
    clip = tested.clips.clips[int(tested.indices[row])]
    return Mistake(printable(tested.clips.name(clip)), names[true], names[guess], listed), (guess, true)


def _lines(mistake: Mistake) -> list[str]:
    """What stands above the picture."""
    if mistake.note:
        return [mistake.clip, mistake.outcome, mistake.note]
    return [
        mistake.clip,
        mistake.outcome,
        f"ring: where features after {mistake.block} speak most for {mistake.guess}",
        "arrows: its strongest links to other frames; colours: its weights, full at the strongest arrow's",
        "frames between those of the block's grid are interpolated",
    ]


def _forget(folder: Path) -> None:
    """Remove the pictures that the folder's list names: they are of an earlier test."""
    try:
        named = [str(entry["picture"]) for entry in json.loads((folder / INDEX).read_text())]
    except (OSError, ValueError, TypeError, KeyError):
        return
    for name in named:
        if re.fullmatch(r"\d\d+-[\w.-]+\.png", name, flags=re.ASCII):  # what `save_mistakes` writes, inside the folder
            (folder / name).unlink(missing_ok=True)


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 980px; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.05rem; margin: 2.5rem 0 .5rem; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; border: 1px solid #ddd; }
td { padding: 0 1.5rem 0 0; } td.score { font-variant-numeric: tabular-nums; text-align: right; }
tr.true { font-weight: bold; }
"""


def _page(found: Sequence[Mistake]) -> str:
    """All mistakes as a page without scripts."""
    parts = [_section(rank, mistake) for rank, mistake in enumerate(found, 1)]
    body = "\n".join(parts) or "<p>Every clip was recognised.</p>"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>The worst mistakes</title>\n'
        f"<style>{_STYLE}</style>\n<h1>The worst mistakes</h1>\n{body}\n</html>\n"
    )


def _section(rank: int, mistake: Mistake) -> str:
    said = html.escape(str(mistake))
    rows = "".join(
        f"<tr{' class=true' if name == mistake.true else ''}><td>{html.escape(name)}</td>"
        f'<td class="score">{score:.4f}</td></tr>'
        for name, score in mistake.scores.items()
    )
    picture = f'<img src="{html.escape(mistake.picture)}" alt="{said}">' if mistake.picture else ""
    note = f"<p>{html.escape(mistake.note)}</p>" if mistake.note else ""
    return f"<h2>{rank}. {said}</h2>\n{picture}{note}<table>{rows}</table>"
