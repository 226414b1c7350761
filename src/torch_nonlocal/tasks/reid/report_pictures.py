"""Pictures of the report of a test: curves, overview, ranked lists, and what supports matches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from torch_nonlocal._common.files import printable, replacing
from torch_nonlocal._common.text import counted
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.media.sampling import uniform_clips
from torch_nonlocal.tasks.attention_picture import DOTS_PER_INCH, rendered
from torch_nonlocal.tasks.reid.curves import cmc_picture, pairs_picture, roc_picture
from torch_nonlocal.tasks.reid.match_links import ShownClip, match_picture, support
from torch_nonlocal.tasks.reid.overview import overview_picture, principal_components
from torch_nonlocal.tasks.reid.ranked_picture import RankedList, Shown, camera_text, ranked_picture
from torch_nonlocal.tasks.reid.rankings import Rankings
from torch_nonlocal.tasks.reid.testing import Tested
from torch_nonlocal.tasks.reid.verification import OperatingPoint, VerificationScores

FOLDER = "pictures"
_MATCHES = 8
_OWN_NAME = re.compile(r"(cmc|roc|pairs|overview|(worst|best)-\d+|links-\d+-(right|wrong))\.png", re.ASCII)
_FINE = 160  # dots per inch
_CSS = 96  # CSS pixels per inch


class Picture(NamedTuple):
    """A picture of the page.

    Attributes:
        file: path relative to the page.
        text: what it shows.
        width: its width in CSS pixels.
    """

    file: str
    text: str
    width: int


def forget_pictures(folder: Path) -> None:
    """Remove the pictures of an earlier report from a folder, if there is one."""
    if folder.is_dir() and not folder.is_symlink():
        for path in folder.iterdir():
            if _OWN_NAME.fullmatch(path.name):
                path.unlink()


class Drawing:
    """Draws and saves the pictures of a test.

    Args:
        tested: the outcome of the test.
        rankings: matches of each query.
        folder: the folder of the pictures; created if missing.
    """

    def __init__(self, tested: Tested, rankings: Rankings, folder: Path) -> None:
        self._tested, self._rankings, self._folder = tested, rankings, folder
        self._source, self._ranked = tested.retrieval.source, tested.ranked
        folder.mkdir(parents=True, exist_ok=True)

    def curves(self, verification: VerificationScores | None, chosen: OperatingPoint | None) -> list[Picture]:
        """CMC, and ROC and pairs if there are any."""
        found = [self._save("cmc", cmc_picture(self._tested.scores), "CMC under each protocol")]
        if verification is not None and chosen is not None:
            roc = roc_picture(verification, chosen)
            pairs = pairs_picture(verification, chosen, self._tested.options.distance)
            found.append(self._save("roc", roc, "ROC of pairs of tracklets"))
            found.append(self._save("pairs", pairs, "similarities of pairs of the same and of different identities"))
        return found

    def overview(self) -> Picture:
        """Principal components of all embeddings; under the cosine distance, of those divided by their norms."""
        ranked, tracklets = self._ranked, self._source.tracklets
        rows = {at: vector for at, vector in zip(ranked.gallery_at, ranked.gallery, strict=True)}
        rows |= {at: vector for at, vector in zip(ranked.query_at, ranked.query, strict=True)}
        vectors = torch.as_tensor(np.stack(list(rows.values())))
        if self._tested.options.distance == "cosine":
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        shown = [tracklets[at] for at in rows]
        names = [one.identity if one.role == "person" else "" for one in shown]
        figure = overview_picture(principal_components(vectors), names, [one.camera for one in shown])
        return self._save("overview", figure, "embeddings of queries and gallery by principal components")

    def ranked(self, query: int, name: str) -> Picture:
        """The ranked list of a query."""
        rankings = self._rankings
        rows = rankings.rows[query]
        rows = rows[rows >= 0][:_MATCHES].tolist()
        matches = []
        for place, row in enumerate(rows):
            distance, right = float(rankings.distances[query, place]), bool(rankings.right[query, place])
            matches.append(self._shown(self._ranked.gallery_at[row], [self._nearness(distance)], right))
        ranks = list(range(1, len(rows) + 1))
        first = int(rankings.first_right_rank[query])
        if first > len(rows):  # the nearest right match stands in place of the last one
            at, distance = int(rankings.first_right[query]), float(rankings.first_right_distance[query])
            matches[-1] = self._shown(self._ranked.gallery_at[at], [self._nearness(distance)], True)
            ranks[-1] = first
        shown = RankedList(self._shown(self._ranked.query_at[query], [], None), matches, ranks=ranks)
        return self._save(name, ranked_picture([shown]), self.outcome(query))

    def outcome(self, query: int) -> str:
        """Name of a query, its average precision, and the rank of its nearest right match."""
        name = printable(self._source.tracklets[self._ranked.query_at[query]].name)
        value = float(self._tested.scores[self._rankings.protocol].average_precisions[query])
        first = int(self._rankings.first_right_rank[query])
        found = f"nearest right match at rank {first:,}" if first else "no match"
        return f"{name}: average precision {value:.3f}, {found}"

    def _nearness(self, distance: float) -> str:
        options = self._tested.options
        is_similarity = options.distance == "cosine" and not options.rerank
        return f"similarity {1 - distance:.3f}" if is_similarity else f"distance {distance:.3f}"

    def _shown(self, at: int, lines: Sequence[str], right: bool | None) -> Shown:
        one = self._source.tracklets[at]
        try:
            picture = self._source.read(at, [one.length // 2])[:, 0].permute(1, 2, 0).numpy()
        except BrokenVideoError:
            picture = None
        identity = one.identity if one.role == "person" else one.role
        return Shown(picture, [*lines, identity, camera_text(one.camera), counted(one.length, "frame")], right)

    def links(self, query: int, number: int) -> list[Picture]:
        """What supports the best right and the best wrong match of a query."""
        rankings = self._rankings
        listed = rankings.rows[query][(rankings.rows[query] >= 0) & ~rankings.right[query]]
        pairs = [("right", int(rankings.first_right[query])), ("wrong", int(listed[0]) if len(listed) else -1)]
        found = []
        for kind, row in pairs:
            if row < 0:
                continue
            at = self._ranked.query_at[query], self._ranked.gallery_at[row]
            names = [self._source.tracklets[index].name for index in at]
            lines = [f"{kind} match of {names[0]}: {names[1]}"]
            try:
                shown = [self._clip(index) for index in at]
            except BrokenVideoError:
                continue
            model = self._tested.model
            device = next(model.parameters()).device
            clips = [torch.as_tensor(one.clip, device=device).permute(3, 0, 1, 2)[None] for one in shown]
            seen = support(model.network, *(model.inputs.normalize(clip) for clip in clips))
            lines.append(f"cosine similarity of the clips shown: {seen.similarity:.3f}, the mean over all cells")
            image = match_picture(shown[0], shown[1], seen, lines)
            found.append(self._save_image(f"links-{number:02}-{kind}", image, lines[0]))
        return found

    def _clip(self, at: int) -> ShownClip:
        frames = uniform_clips(self._source.tracklets[at].length, *self._tested.model.settings.schedule, 1)[0]
        return ShownClip(self._source.read(at, frames).permute(1, 2, 3, 0).numpy(), frames)

    def _save(self, name: str, figure: Any, text: str) -> Picture:
        return self._save_image(name, rendered(figure, dots_per_inch=_FINE), text, _FINE)

    def _save_image(self, name: str, image: Any, text: str, dots_per_inch: int = DOTS_PER_INCH) -> Picture:
        file = f"{name}.png"
        with replacing(self._folder / file) as temporary:
            image.save(temporary, format="PNG", optimize=True)
        return Picture(f"{FOLDER}/{file}", printable(text), round(image.width / dots_per_inch * _CSS))
