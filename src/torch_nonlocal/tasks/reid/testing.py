"""Test of a trained network of re-identification: embeddings, distances, and retrieval metrics."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.data.broken import Broken, BrokenClips
from torch_nonlocal.tasks.reid.data import Retrieval, retrieval_data
from torch_nonlocal.tasks.reid.distances import distance_blocks
from torch_nonlocal.tasks.reid.evaluation import Ranked, embedded_retrieval
from torch_nonlocal.tasks.reid.labels import Labels, checked_labels
from torch_nonlocal.tasks.reid.metrics import PROTOCOLS, Protocol, RetrievalScores, evaluate_blocks
from torch_nonlocal.tasks.reid.open_set import OpenSetScores, held_out_identities, identify_embeddings
from torch_nonlocal.tasks.reid.reranking import reranked_blocks
from torch_nonlocal.tasks.reid.settings import ReidTestOptions
from torch_nonlocal.tasks.reid.trained import TrackletEmbedder, read_trained
from torch_nonlocal.tasks.reid.trained_on import CHOSEN_ON, TRAINED_ON, tracklet_digest
from torch_nonlocal.tasks.reid.verification import VerificationScores, verify_embeddings
from torch_nonlocal.tasks.trained_files import saved_texts

_UNKNOWN = 0.5
"""Share of the identities that are unknown in the open-set scores."""


@dataclass(frozen=True)
class Tested:
    """The outcome of a test.

    Attributes:
        model: the network.
        retrieval: queries and gallery.
        ranked: their embeddings; rows that could be read.
        scores: retrieval metrics by protocol.
        options: options of the test.
        verification: same or different identity, by the distances of the embeddings; None without such pairs.
        open_set: queries of half of the identities, which are left out of the gallery; None with too few of them.
        notes: lines about the data.
        not_read: tracklets that could not be read.
    """

    model: TrackletEmbedder
    retrieval: Retrieval
    ranked: Ranked
    scores: dict[Protocol, RetrievalScores]
    verification: VerificationScores | None
    open_set: OpenSetScores | None
    options: ReidTestOptions
    notes: tuple[str, ...]
    not_read: tuple[Broken, ...]

    def blocks(self) -> Iterator[Any]:
        """Blocks of distances (first query, (B, G)), as the options have them."""
        return distances_of(self.ranked, self.options)

    def labels(self) -> Labels:
        """Identities and cameras of the rows of `ranked`."""
        ranked = self.ranked
        return checked_labels(*ranked.labels, query_index=ranked.query_index)


def ranked_run(
    weights: Path,
    data: Path | None,
    options: ReidTestOptions,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tested:
    """Embed queries and gallery with trained weights, and rank them.

    Args:
        weights: checkpoints/best.pt of a run, or the folder of the run.
        data: as in `data.retrieval_data`.
        options: options of the test.
        on_progress: called with the number of finished clips and their total.

    Raises:
        FileNotFoundError: the weights do not exist.
        ValueError: there are no such data, the weights are of another task, or there is nothing to test on.
        ImportError: a package is not installed.
    """
    import torch

    trained = read_trained(weights, options.network)
    model, split = trained.model, trained.model.settings.split or 0
    retrieval, notes = retrieval_data(data, model.settings, split, options.layout)
    known = {name: saved_texts(trained.content, name, weights) for name in (TRAINED_ON, CHOSEN_ON)}
    retrieval, lines = _without_trained(retrieval, known, options)
    notes = [*notes, *lines]
    broken = BrokenClips()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    reading: dict[str, Any] = {"views": options.views, "batch": options.batch_size, "workers": options.workers}
    reading |= {"on_error": options.on_error, "broken": broken, "on_views": on_progress}
    ranked = embedded_retrieval(model.network.eval(), retrieval, model.settings, model.inputs, **reading)
    scores, lines = _scores(ranked, options)
    notes += lines
    verification, open_set, lines = _threshold_scores(ranked, options)
    notes += lines
    return Tested(model, retrieval, ranked, scores, verification, open_set, options, tuple(notes), broken.entries())


def _scores(ranked: Ranked, options: ReidTestOptions) -> tuple[dict[Protocol, RetrievalScores], list[str]]:
    """The metrics by protocol, and lines about a protocol under which no query has a match.

    Raises:
        ValueError: no query has a match under any of the protocols.
    """

    def score(*protocols: Protocol) -> dict[Protocol, RetrievalScores]:
        blocks = distances_of(ranked, options)
        return evaluate_blocks(blocks, *ranked.labels, protocols=protocols, query_index=ranked.query_index)

    if options.protocol != "both":
        return score(options.protocol), []
    try:
        return score(*PROTOCOLS), []
    except ValueError as error:
        return score("official"), [f"not scored: {error}"]


def _threshold_scores(
    ranked: Ranked, options: ReidTestOptions
) -> tuple[VerificationScores | None, OpenSetScores | None, list[str]]:
    """Verification and open-set scores, and lines about those that are missing or too coarse for the chosen rate."""
    pairs = ranked.query, ranked.gallery, *ranked.labels
    verification, open_set, lines = None, None, []
    try:
        verification = verify_embeddings(*pairs, metric=options.distance)
        number = verification.different_pairs
        pairs_text = counted(number, "pair of different identities", "pairs of different identities")
        lines += _coarse(options.false_accept, pairs_text, number)
    except ValueError as error:
        lines.append(f"no verification: {error}")
    try:
        unknown = held_out_identities(ranked.query_ids, _UNKNOWN)
        open_set = identify_embeddings(*pairs, unknown_ids=unknown, metric=options.distance)
        queries_text = counted(open_set.unknown, "query of unknown identity", "queries of unknown identities")
        lines += _coarse(options.false_accept, queries_text, open_set.unknown)
    except ValueError as error:
        lines.append(f"no open-set scores: {error}")
    return verification, open_set, lines


def _coarse(rate: float, what: str, number: int) -> list[str]:
    """A line if so few pairs or queries cannot measure the chosen false-accept rate."""
    if rate * number >= 1:
        return []
    least = f"rates below {1 / number:.2g} cannot be measured"
    return [f"--false-accept {rate:g}: of {what}, the threshold accepts none; {least}"]


def distances_of(ranked: Ranked, options: ReidTestOptions) -> Iterator[Any]:
    """Blocks of distances, (first query, (B, G)): of the embeddings, or re-ranked."""
    if options.rerank:
        index = ranked.query_index
        return iter(reranked_blocks(ranked.query, ranked.gallery, query_index=index, metric=options.distance))
    return iter(distance_blocks(ranked.query, ranked.gallery, metric=options.distance))


def _without_trained(
    retrieval: Retrieval, known: Mapping[str, frozenset[str]], options: ReidTestOptions
) -> tuple[Retrieval, list[str]]:
    """The retrieval without the identities of tracklets that the weights were trained on, and lines about them.

    Identities that chose the best weights are named; they are tested.
    """
    tracklets = retrieval.source.tracklets
    people = {at for at in (*retrieval.query, *retrieval.gallery) if tracklets[at].role == "person"}
    digests = {at: tracklet_digest(retrieval.source, at) for at in people if any(known.values())}
    seen, chosen = (
        {tracklets[at].identity for at, digest in digests.items() if digest in known[name]}
        for name in (TRAINED_ON, CHOSEN_ON)
    )
    left_out = set() if options.whole else {at for at in people if tracklets[at].identity in seen}
    gallery = [at for at in retrieval.gallery if at not in left_out]
    query = tuple(at for at in retrieval.query if at not in left_out)
    if not query or not gallery:
        names = counted(len(seen), "identity", "identities")
        raise ValueError(f"the weights were trained on all {names} of the data; expected other data, or --whole")
    rows = {at: row for row, at in enumerate(gallery)}
    index = None if retrieval.query_index is None else tuple(rows[at] for at in query)
    how = "tested though the weights were trained on them" if options.whole else "left out, since trained on"
    notes = [_about(how, seen), _about("chose the best weights", chosen if options.whole else chosen - seen)]
    kept = replace(retrieval, query=query, gallery=tuple(gallery), query_index=index) if left_out else retrieval
    return kept, [note for note in notes if note]


def _about(what: str, identities: set[str]) -> str:
    count = counted(len(identities), "identity", "identities")
    return f"{what}: {count}: {listed(sorted(identities), most=3)}" if identities else ""
