"""Results of a gallery: lines, a table, JSON, and a picture of queries with their ranked matches."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch_nonlocal._common.files import encodable, printable, replacing, write_json
from torch_nonlocal._common.text import counted, elided
from torch_nonlocal.gallery import Answer, By, Entry, Gallery, Match
from torch_nonlocal.tasks.reid.gallery import frame_of
from torch_nonlocal.tasks.reid.ranked_picture import RankedList, Shown, camera_text, ranked_picture

if TYPE_CHECKING:
    from rich.table import Table

    from torch_nonlocal.data.broken import Broken

PICTURES = (".pdf", ".png", ".svg")
"""Suffixes of pictures."""

MOST_DRAWN = 20
"""Queries that are drawn."""

_MOST_QUERIES = 50  # in a table
_MOST_MATCHES = 10  # of a query, in the picture
_FRAME = (256, 128)  # height and width of what is drawn, in pixels
_LETTERS = 16  # of a name


def gallery_lines(gallery: Gallery) -> list[str]:
    """What a gallery holds, how it is searched, and its thresholds."""
    persons = counted(len(gallery.identities), "person")
    lines = [f"{gallery.folder}: {counted(len(gallery), 'tracklet')} of {persons}, {gallery.dimension} dimensions"]
    lines += [f"search by {by}: {printable(index.reason)}" for by, index in gallery.indexes.items()]
    return lines + [_threshold_line(gallery, by) for by in gallery.indexes]


def search_summary(gallery: Gallery, answers: Sequence[Answer], by: By) -> list[str]:
    """How many queries are known, and the threshold."""
    known = sum(answer.is_known is True for answer in answers)
    queries = f"{counted(len(answers), 'query')}" if len(answers) == 1 else f"{len(answers):,} queries"
    counts = (
        [] if gallery.thresholds.get(by) is None else [f"{queries}: {known:,} known, {len(answers) - known:,} unknown"]
    )
    return [*counts, _threshold_line(gallery, by)]


def search_table(queries: Sequence[Entry], answers: Sequence[Answer]) -> "Table":
    """The matches of each query, for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("query", "answer"):
        table.add_column(name, overflow="fold")
    table.add_column("similarity", justify="right", no_wrap=True)
    for name in ("identity", "tracklet", "camera"):
        table.add_column(name, overflow="fold")
    for query, answer in list(zip(queries, answers, strict=True))[:_MOST_QUERIES]:
        for rank, match in enumerate(answer.matches):
            first = [query.name, _verdict(answer)] if rank == 0 else ["", ""]
            cells = [*first, f"{match.similarity:.3f}", match.identity, match.entry.name, match.entry.camera]
            table.add_row(*(escape(printable(cell)) for cell in cells))
    if len(answers) > _MOST_QUERIES:
        table.add_row(f"and {len(answers) - _MOST_QUERIES:,} more")
    return table


def write_search_json(
    path: Path,
    gallery: Gallery,
    queries: Sequence[Entry],
    answers: Sequence[Answer],
    by: By,
    broken: "Sequence[Broken]",
) -> None:
    """Write the matches of each query as JSON.

    "known" is null if the gallery has no threshold. "tracklet" of a match by person is one of the person's tracklets.
    """
    threshold = gallery.thresholds.get(by)
    rows = [
        {
            "query": encodable(query.name),
            "known": answer.is_known,
            "identity": answer.identity,
            "matches": [
                {
                    "rank": rank,
                    "similarity": round(match.similarity, 6),
                    "identity": match.identity,
                    "tracklet": match.entry.name,
                    "camera": match.entry.camera,
                }
                for rank, match in enumerate(answer.matches, 1)
            ],
        }
        for query, answer in zip(queries, answers, strict=True)
    ]
    content = {
        "gallery": encodable(str(gallery.folder)),
        "model": {"digest": gallery.model.digest, "description": encodable(gallery.model.description)},
        "by": by,
        "threshold": None if threshold is None else vars(threshold),
        "queries": rows,
        "not_read": [{name: encodable(text) for name, text in entry._asdict().items()} for entry in broken],
    }
    write_json(path, content, indent=1)


def draw_search(path: Path, queries: Sequence[Entry], answers: Sequence[Answer]) -> list[str]:
    """Draw queries and their matches, best first, with similarities; matches below the threshold are paler.

    A frame whose file is missing is drawn as a gray tile.

    Args:
        path: PNG, PDF or SVG file.
        queries: what was searched for; at most `MOST_DRAWN` are drawn.
        answers: the answers, in the same order.

    Returns:
        Names of the tracklets that were drawn as gray tiles.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    missing: list[str] = []

    def shown(entry: Entry, *lines: str, pale: bool = False) -> Shown:
        frame = frame_of(entry, _FRAME)
        if frame is None:
            missing.append(entry.name)
        return Shown(None if frame is None else frame.numpy(), lines, pale=pale)

    def is_below(match: Match, answer: Answer) -> bool:
        return answer.threshold is not None and match.similarity <= answer.threshold

    lists = []
    for query, answer in list(zip(queries, answers, strict=True))[:MOST_DRAWN]:
        matches = [
            shown(
                match.entry,
                f"similarity {match.similarity:.3f}",
                match.identity,
                camera_text(match.entry.camera),
                *(["below the threshold"] if is_below(match, answer) else []),
                pale=is_below(match, answer),
            )
            for match in answer.matches[:_MOST_MATCHES]
        ]
        verdict = "unknown" if answer.is_known is False else ""
        title = f"{query.name}: {_verdict(answer)}"
        lists.append(RankedList(shown(query, query.name), matches, title=title, verdict=verdict))
    figure = ranked_picture(lists)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return list(dict.fromkeys(missing))


def _threshold_line(gallery: Gallery, by: By) -> str:
    found = gallery.thresholds.get(by)
    if found is None:
        return f"no threshold by {by}: the gallery has a single person"
    line = (
        f"threshold by {by}: similarity {found.similarity:.4f} at a false-accept rate of {100 * found.rate:g} %, "
        f"from {counted(found.samples, 'sample')}, if unknown persons resemble the stored ones"
    )
    return (
        line
        if found.attainable
        else f"{line}; too few samples for this rate, so the threshold is the highest similarity seen"
    )


def _verdict(answer: Answer) -> str:
    if answer.is_known is None:
        return "no threshold"
    return elided(printable(answer.matches[0].identity), _LETTERS) if answer.is_known else "unknown"
