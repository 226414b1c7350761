"""`nonlocal gallery`: store the embeddings of tracklets and search them."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from torch_nonlocal._common.files import check_folder, check_new_file, printable
from torch_nonlocal._common.progress import ProgressBar
from torch_nonlocal._common.terminal import print_errors, print_lines, terminal
from torch_nonlocal._common.text import counted, listed
from torch_nonlocal.cli import needs
from torch_nonlocal.cli.threads import use_free_cores

if TYPE_CHECKING:
    from torch_nonlocal.gallery import Entry, Gallery
    from torch_nonlocal.tasks.reid.gallery import Enrolled
    from torch_nonlocal.tasks.reid.trained import TrackletEmbedder

SUMMARY = "Store embeddings of tracklets and search them: nonlocal gallery build|add|delete|search."
_NOTES = 20  # that are printed of each kind

_Folder = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="GALLERY")]
_Checkpoint = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
_Data = Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DATA...")]
_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
_Part = Literal["gallery", "query", "train", "all"]


def commands(arguments: Sequence[str]) -> tuple[dict[str, Callable[..., None]], Sequence[str]]:
    """The commands below `nonlocal gallery`; see `app.COMMANDS`."""
    return {"build": build, "add": add, "delete": delete, "search": search, "calibrate": calibrate}, arguments


def build(
    gallery: _Folder,
    checkpoint: _Checkpoint,
    data: _Data,
    *,
    identity: str = "",
    camera: str = "",
    layout: str = "auto",
    split: int | None = None,
    part: _Part = "gallery",
    rate: float | None = None,
    views: int = 2,
    batch_size: int = 16,
    network: str = "",
) -> None:
    """Embed tracklets and store them in a new gallery, or finish an interrupted build.

    Prints how the gallery is searched, and the similarity above which a person counts as known. Tracklets that the
    gallery already has are not embedded again. Tracklets that cannot be read are named and left out; the exit code is 1
    if there are any.

    Example: nonlocal gallery build people runs/reid my-set

    Args:
        gallery: folder of the gallery; created if missing.
        checkpoint: checkpoints/best.pt of a run, or the folder of the run.
        data: a set or table of tracklets; the built-in handwritten persons by default. With --identity, folders of
            frames, pictures or videos of one person.
        identity: the person that DATA shows.
        camera: the camera that recorded DATA, with --identity.
        layout: layout of the set; auto recognizes it.
        split: number of the split, from 0, of sets with several; by default that of the network's training.
        part: tracklets of the set that are stored: gallery, query, train, or all.
        rate: false-accept rate, the fraction of unknown persons that may be accepted as a stored one; the threshold
            follows from it. 0.01 for a new gallery.
        views: clips per tracklet; their embeddings are averaged.
        batch_size: clips per forward pass.
        network: FILE.py:FUNCTION, if the network is defined in a Python file. The file is executed, so its name is not
            taken from the checkpoint.
    """
    needs.check("gallery")
    check_folder(gallery, "GALLERY")
    from torch_nonlocal import gallery as galleries

    embedder = _embedder(checkpoint, network, views, batch_size)
    enrolled = _enrolled(embedder, data, identity, camera, layout, split, part)
    how = {"views": views, "batch": batch_size}
    _embed(galleries.build, gallery, checkpoint, embedder, enrolled, how, rate=rate)


def add(
    gallery: _Folder,
    checkpoint: _Checkpoint,
    data: _Data,
    *,
    identity: str = "",
    camera: str = "",
    layout: str = "auto",
    split: int | None = None,
    part: _Part = "gallery",
    views: int = 2,
    batch_size: int = 16,
    network: str = "",
) -> None:
    """Embed tracklets and add them to a gallery; rerun an interrupted command to resume.

    The index and the thresholds are computed again. Tracklets that cannot be read are named and left out; the exit code
    is 1 if there are any.

    Example: nonlocal gallery add people runs/reid anna.mp4 --identity anna

    Args:
        gallery: folder of the gallery.
        checkpoint: the network that the gallery was built with.
        data: a set or table of tracklets. With --identity, folders of frames, pictures or videos of one person.
        identity: the person that DATA shows.
        camera: the camera that recorded DATA, with --identity.
        layout: layout of the set; auto recognizes it.
        split: number of the split, from 0, of sets with several; by default that of the network's training.
        part: tracklets of the set that are stored: gallery, query, train, or all.
        views: clips per tracklet; their embeddings are averaged.
        batch_size: clips per forward pass.
        network: FILE.py:FUNCTION, if the network is defined in a Python file. The file is executed, so its name is not
            taken from the checkpoint.
    """
    if not data:
        raise ValueError("expected DATA: a set or table of tracklets, or files of one person with --identity")
    needs.check("gallery")
    from torch_nonlocal import gallery as galleries

    embedder = _embedder(checkpoint, network, views, batch_size)
    enrolled = _enrolled(embedder, data, identity, camera, layout, split, part)
    _embed(galleries.add, gallery, checkpoint, embedder, enrolled, {"views": views, "batch": batch_size})


def delete(
    gallery: _Folder,
    *,
    tracklet: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    identity: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    yes: bool = False,
) -> None:
    """Delete tracklets or persons from a gallery, and their vectors from all its files.

    In a terminal, lists what will be deleted and asks first; elsewhere, prints what was deleted. If a name is not in
    the gallery, nothing is deleted. This cannot be undone.

    Example: nonlocal gallery delete people --identity anna --identity bo

    Args:
        gallery: folder of the gallery.
        tracklet: name of a tracklet, as a search prints it. Repeat the option for several.
        identity: name of a person, who is deleted with all tracklets. Repeat the option for several.
        yes: do not ask.
    """
    needs.check("gallery")
    from torch_nonlocal.gallery import delete as delete_from

    asks = not yes and sys.stdin is not None and sys.stdin.isatty()
    confirm = _confirm_deletion if asks else None
    deleted = delete_from(gallery, names=tracklet, identities=identity, confirm=confirm, log=print_lines)
    if not asks:
        _print_some([f"deleted: {_described(one)}" for one in deleted])
    print_lines(f"{_counts(deleted)} deleted from {gallery}" if deleted else f"nothing deleted from {gallery}")


def search(
    gallery: _Folder,
    checkpoint: _Checkpoint,
    query: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="QUERY...")],
    *,
    top: int = 10,
    by: Literal["tracklet", "person"] = "tracklet",
    json: _File = None,
    picture: _File = None,
    overwrite: bool = False,
    views: int = 2,
    batch_size: int = 16,
    network: str = "",
) -> None:
    """Search a gallery by new tracklets: the most similar ones, or "unknown".

    A query is a folder of frames of one person, a picture, a video that shows nothing else, a folder with these, or a
    table of tracklets.
    Whoever is not more similar to the best match than the threshold is unknown. Queries that cannot be read are named;
    the exit code is 1 if there are any.

    Example: nonlocal gallery search people runs/reid clip.mp4 --picture found.png

    Args:
        gallery: folder of the gallery.
        checkpoint: the network that the gallery was built with.
        query: folders of frames, pictures, videos or tables; the queries of the built-in persons by default.
        top: number of matches per query.
        by: rank tracklets, or persons by one vector each, the mean of their tracklets.
        json: also write the matches to this JSON file.
        picture: draw queries and matches to this PNG, PDF or SVG file.
        overwrite: replace output files that exist.
        views: clips per tracklet; their embeddings are averaged.
        batch_size: clips per forward pass.
        network: FILE.py:FUNCTION, if the network is defined in a Python file. The file is executed, so its name is not
            taken from the checkpoint.
    """
    if top < 1:
        raise ValueError(f"--top {top}: expected 1 or more")
    for option, path in (("--json", json), ("--picture", picture)):
        if path is not None:
            check_new_file(path, option, overwrite=overwrite)
    needs.check("gallery")
    from torch_nonlocal.data.broken import BrokenClips
    from torch_nonlocal.gallery import open_gallery
    from torch_nonlocal.tasks.reid import gallery as of_networks
    from torch_nonlocal.tasks.reid import gallery_results as results

    if picture is not None and picture.suffix not in results.PICTURES:
        raise ValueError(f"--picture {picture}: expected a name that ends in {', '.join(results.PICTURES)}")
    opened = open_gallery(gallery)
    embedder = _embedder(checkpoint, network, views, batch_size)
    broken = BrokenClips()
    source, entries = of_networks.queries(query, embedder.settings.size, broken)
    if not entries:
        raise ValueError(f"no query can be read: {listed([one.reason for one in broken.entries()], most=3)}")
    embed = of_networks.embed_with(embedder, source, views=views, batch=batch_size, broken=broken)
    vectors, kept = embed(range(len(entries)))
    asked = [entries[place] for place in kept]
    answers = []
    if kept:
        answers = opened.search(vectors, top, by=by, model=of_networks.model_of(embedder, checkpoint))
        terminal().print(results.search_table(asked, answers))
    for line in [*results.search_summary(opened, answers, by), *(f"note: {one}" for one in opened.notes)]:
        print_lines(line)
    if json is not None:
        results.write_search_json(json, opened, asked, answers, by, broken.entries())
        print_lines(f"written: {json}")
    if picture is not None and answers:
        missing = results.draw_search(picture, asked, answers)
        _print_some([f"no picture of {name}: its file is missing or cannot be read" for name in missing])
        print_lines(f"written: {picture}")
    _exit_if_broken(broken.entries())


def calibrate(gallery: _Folder, *, rate: float) -> None:
    """Choose the threshold of a gallery again, at another false-accept rate.

    Example: nonlocal gallery calibrate people --rate 0.05

    Args:
        gallery: folder of the gallery.
        rate: the fraction of unknown persons that may be accepted as a stored one.
    """
    needs.check("gallery")
    from torch_nonlocal.gallery import recalibrate

    _print_gallery(recalibrate(gallery, rate))


def _confirm_deletion(entries: "Sequence[Entry]") -> bool:
    _print_some([f"to be deleted: {_described(one)}" for one in entries])
    try:
        answer = input(f"Delete {_counts(entries)}? This cannot be undone. [y/N] ")
    except EOFError:
        answer = ""
    return answer.strip().lower() in ("y", "yes")


def _described(one: "Entry") -> str:
    return printable(f"{one.name} ({one.identity}, camera {one.camera or 'unknown'})")


def _counts(entries: "Sequence[Entry]") -> str:
    return f"{counted(len(entries), 'tracklet')} of {counted(len({one.identity for one in entries}), 'person')}"


def _embedder(checkpoint: Path, network: str, views: int, batch_size: int) -> "TrackletEmbedder":
    for name, value in (("views", views), ("batch-size", batch_size)):
        if value < 1:
            raise ValueError(f"--{name} {value}: expected 1 or more")
    import torch

    from torch_nonlocal.tasks.reid.trained import load_embedder

    use_free_cores(print_errors)
    return load_embedder(checkpoint, network=network).to("cuda" if torch.cuda.is_available() else "cpu")


def _enrolled(
    embedder: "TrackletEmbedder",
    data: Sequence[Path],
    identity: str,
    camera: str,
    layout: str,
    split: int | None,
    part: _Part,
) -> "Enrolled":
    from torch_nonlocal.tasks.reid.gallery import enrolled_files, enrolled_set

    size = embedder.settings.size
    if identity:
        return enrolled_files(data, size, identity=identity, camera=camera)
    if camera:
        raise ValueError(f"--camera {camera} needs --identity: sets and tables name the cameras of their tracklets")
    if len(data) > 1:
        raise ValueError(
            f"{len(data)} names of DATA: expected one set or table, or files of one person with --identity"
        )
    trained = embedder.settings.split or 0
    return enrolled_set(data[0] if data else None, size, layout=layout, split=split, part=part, trained=trained)


def _embed(
    write: "Callable[..., Gallery]",
    gallery: Path,
    checkpoint: Path,
    embedder: "TrackletEmbedder",
    enrolled: "Enrolled",
    how: dict[str, int],
    **options: Any,
) -> None:
    from torch_nonlocal.data.broken import BrokenClips
    from torch_nonlocal.tasks.reid.gallery import embed_with, model_of

    _print_some(enrolled.notes)
    broken = BrokenClips()
    embed = embed_with(embedder, enrolled.source, broken=broken, **how)
    with ProgressBar("embed", unit="tracklets") as bar:
        model = model_of(embedder, checkpoint)
        opened = write(gallery, enrolled.entries, embed, model, on_progress=bar.update, log=bar.print, **options)
    _print_gallery(opened)
    _exit_if_broken(broken.entries())


def _print_gallery(gallery: "Gallery") -> None:
    from torch_nonlocal.tasks.reid.gallery_results import gallery_lines

    for line in gallery_lines(gallery):
        print_lines(line)


def _print_some(lines: Sequence[str]) -> None:
    for line in lines[:_NOTES]:
        print_lines(line)
    if len(lines) > _NOTES:
        print_lines(f"and {len(lines) - _NOTES:,} more")


def _exit_if_broken(entries: Sequence[Any]) -> None:
    _print_some([f"{entry.kind}: {entry.reason}" for entry in entries])
    if entries:
        print_lines(f"{counted(len(entries), 'tracklet')} not read")
        sys.exit(1)
