"""The worst mistakes of a test: a picture of each, a JSON list and an HTML page."""

import html
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from torch_nonlocal._common.files import printable, write_json, write_text
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.models.inputs import inputs_of
from torch_nonlocal.tasks.action.evaluation import Evaluation
from torch_nonlocal.tasks.action.metrics import worst_mistakes
from torch_nonlocal.tasks.action.trained import read_trained
from torch_nonlocal.tasks.attention_picture import draw, ends_of, look_at, margin

INDEX = "mistakes.json"
PAGE = "index.html"
_CLASSES = 5


@dataclass(frozen=True)
class Mistake:
    """A misclassified clip.

    Attributes:
        clip: name of the clip relative to the data folder.
        true: the true class.
        guess: the predicted class.
        scores: softmax scores, averaged over views, of the five highest classes and the true class, highest first.
        picture: file name of the picture; "" if there is none.
        block: the block whose attention is drawn; "" if there is none.
        query: the position where the arrows start, (frame, y, x) in pixels of the view; None without arrows.
        note: the reason if there is no picture or no arrow; "" otherwise.
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
        """Predicted and true class with their scores."""
        guess, true = self.scores[self.guess], self.scores[self.true]
        return f"predicted {self.guess} ({guess:.2f}), true {self.true} ({true:.2f})"

    def __str__(self) -> str:
        return f"{self.clip}: {self.outcome}"


def show_mistakes(weights: Path, tested: Evaluation, folder: Path, *, count: int, network: str = "") -> list[Mistake]:
    """Run `save_mistakes` with the network of a file of weights on the middle view of each clip.

    Args:
        weights: the tested weights.
        tested: the outcome of the test.
        folder: folder for all files; created if missing.
        count: maximum number of mistakes.
        network: as for `trained.read_trained`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    model = read_trained(weights, network).model
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepare = inputs_of(model).normalize
    return save_mistakes(model.to(device), tested, _MiddleViews(tested), folder, count=count, prepare=prepare)


def save_mistakes(
    model: nn.Module,
    tested: Evaluation,
    read: Callable[[int], Tensor],
    folder: Path,
    *,
    count: int,
    prepare: Callable[[Tensor], Tensor],
) -> list[Mistake]:
    """Draw the worst mistakes and list them in mistakes.json and index.html.

    Pictures that an earlier mistakes.json in the folder lists are removed.

    Args:
        model: the tested network, in eval mode.
        tested: the outcome of the test.
        read: returns a view of a clip, (C, T, H, W) uint8, by index into `tested.clips`.
        folder: folder for all files; created if missing.
        count: maximum number of mistakes; the lowest scores of the true class come first.
        prepare: maps views (B, C, T, H, W) to the network's input.

    Raises:
        ImportError: matplotlib is not installed.
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
            mistake = replace(mistake, note=f"no picture: the clip is no longer readable: {reason}")
        else:
            look, note = look_at(model, prepare(view_CTHW[None]), margin(guess, true))
            mistake = replace(mistake, picture=f"{rank:02}-{safe_name(mistake.clip)}.png", note=note)
            if look:
                mistake = replace(mistake, block=look.record.name, query=look.query)
            lines = _lines(mistake, ends_of(look) if look else "")
            draw(view_CTHW.permute(1, 2, 3, 0), look, lines).save(folder / mistake.picture, optimize=True)
        found.append(mistake)
    write_json(folder / INDEX, [asdict(one) for one in found], indent=1)
    write_text(folder / PAGE, _page(found))
    return found


def safe_name(clip: str) -> str:
    """A clip's path as part of a file name: at most 60 ASCII letters, digits, "-", "_" and "."."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", re.sub(r"\.\w{1,5}$", "", clip, flags=re.ASCII))
    return plain[-60:].strip("._-") or "clip"


class _MiddleViews:
    """The middle crop of the middle clip of each tested video, by index into the test's clips."""

    def __init__(self, tested: Evaluation) -> None:
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


def _mistake(tested: Evaluation, row: int) -> tuple[Mistake, tuple[int, int]]:
    """The mistake without its picture, and the indices of the predicted and the true class."""
    scores_K, true = tested.probabilities[row], int(tested.labels[row])
    names = [printable(name) for name in tested.clips.classes]
    guess = int(scores_K.argmax())
    order = dict.fromkeys([guess, *scores_K.topk(min(_CLASSES, len(names))).indices.tolist(), true])
    listed = {names[k]: round(float(scores_K[k]), 6) for k in order}
    clip = tested.clips.clips[int(tested.indices[row])]
    return Mistake(printable(tested.clips.name(clip)), names[true], names[guess], listed), (guess, true)


def _lines(mistake: Mistake, ends: str) -> list[str]:
    """The lines of text above the picture; `ends` says where the arrows end."""
    if mistake.note:
        return [mistake.clip, mistake.outcome, mistake.note]
    return [
        mistake.clip,
        mistake.outcome,
        f"ring: the position after {mistake.block} whose features contribute most to {mistake.guess}",
        f"arrows: its strongest links to {ends}; colors: its weights, saturated at the strongest arrow",
        "each pixel of a frame has the weight of the nearest cell of the block's grid",
    ]


def _forget(folder: Path) -> None:
    """Remove the pictures of an earlier test, which the folder's mistakes.json lists."""
    try:
        named = [str(entry["picture"]) for entry in json.loads((folder / INDEX).read_text())]
    except (OSError, ValueError, TypeError, KeyError):
        return
    for name in named:
        if re.fullmatch(r"\d\d+-[\w.-]+\.png", name, flags=re.ASCII):  # a name of `save_mistakes`, no path
            (folder / name).unlink(missing_ok=True)


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 980px; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1.05rem; margin: 2.5rem 0 .5rem; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; border: 1px solid #ddd; }
td { padding: 0 1.5rem 0 0; } td.score { font-variant-numeric: tabular-nums; text-align: right; }
tr.true { font-weight: bold; }
"""


def _page(found: Sequence[Mistake]) -> str:
    """An HTML page of all mistakes, without scripts."""
    parts = [_section(rank, mistake) for rank, mistake in enumerate(found, 1)]
    body = "\n".join(parts) or "<p>No clip was misclassified.</p>"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>The worst mistakes</title>\n'
        f"<style>{_STYLE}</style>\n<h1>The worst mistakes</h1>\n{body}\n</html>\n"
    )


def _section(rank: int, mistake: Mistake) -> str:
    title = html.escape(str(mistake))
    rows = "".join(
        f"<tr{' class=true' if name == mistake.true else ''}><td>{html.escape(name)}</td>"
        f'<td class="score">{score:.4f}</td></tr>'
        for name, score in mistake.scores.items()
    )
    picture = f'<img src="{html.escape(mistake.picture)}" alt="{title}">' if mistake.picture else ""
    note = f"<p>{html.escape(mistake.note)}</p>" if mistake.note else ""
    return f"<h2>{rank}. {title}</h2>\n{picture}{note}<table>{rows}</table>"
