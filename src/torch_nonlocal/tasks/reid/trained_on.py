"""Which tracklets weights were trained and chosen on: digests of their content, which are saved with the weights."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from torch_nonlocal.data.tracklets.tracklet import Tracklet, TrackletSource
from torch_nonlocal.tasks.trained_files import saved_texts
from torch_nonlocal.training import load_weights_file

TRAINED_ON, CHOSEN_ON = "trained_on", "chosen_on"
"""Names of the digests in what is saved with the weights: of training tracklets, and of held-out ones."""
_PART = 1 << 16  # bytes


def digests_of(source: TrackletSource) -> list[str]:
    """The digest of each tracklet that is read from files; see `tracklet_digest`."""
    return sorted({digest for index in range(len(source.tracklets)) if (digest := tracklet_digest(source, index))})


def tracklet_digest(source: TrackletSource, index: int) -> str:
    """A digest of a tracklet by its content; "" if it is not read from files.

    Copies under other names have the same digest. It depends on the number of frames and on the first, middle and last
    picture, or on the video and all boxes: tracklets that begin with the same frame, such as a black one, differ. Of
    each file, the size and up to 64 KB at its start and at its end are read.
    """
    one = source.tracklets[index]
    if one.folder is None:
        return ""
    digest = hashlib.blake2b(json.dumps([one.length, *map(list, one.boxes)]).encode(), digest_size=16)
    try:
        for path in _files(one, one.folder):
            with path.open("rb") as file:
                size = file.seek(0, 2)
                digest.update(size.to_bytes(8, "big"))
                for start in (0, max(size - _PART, _PART)):
                    file.seek(start)
                    digest.update(file.read(_PART))
    except OSError:
        return ""
    return digest.hexdigest()


def _files(one: Tracklet, folder: Path) -> Iterator[Path]:
    if not one.files:
        yield folder
        return
    last = len(one.files) - 1
    for number in sorted({0, last // 2, last}):
        yield folder / one.files[number]


def digests_of_weights(weights: str | Path) -> dict[str, frozenset[str]]:
    """The digests in the file that initial weights come from, by `TRAINED_ON` and `CHOSEN_ON`.

    There are none if it is not a file of trained weights of ours.

    Raises:
        ValueError: they are no list of texts.
    """
    path, content = Path(weights), {}
    if path.is_file():
        with suppress(ValueError):  # another kind of file; loading the weights reports what is wrong with it
            content = load_weights_file(path)
    is_ours = bool(content) and content["about"].get("task") == "reid"
    return {name: saved_texts(content, name, path) if is_ours else frozenset() for name in (TRAINED_ON, CHOSEN_ON)}
