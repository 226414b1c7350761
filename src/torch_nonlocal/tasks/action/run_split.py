"""The split that a run keeps: which clips it trained on, which chose its weights, and which it did not use.

The split is saved with the weights, by fingerprint of the clips' content, so a test recognizes a clip that was trained
on wherever the file of weights is, and under any name of the clip.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.text import listed
from torch_nonlocal.data.clip_list import Clip, ClipList
from torch_nonlocal.data.splits import Splits
from torch_nonlocal.training import load_weights_file
from torch_nonlocal.training.items import Items

TRAINING, VALIDATION = "training", "held out"
"""Parts of a run's items."""
_SPLITS = ("train", "val", "test")


def as_before(splits: Splits, kept: Items) -> tuple[ClipList, ClipList, str]:
    """The training and validation clips of a run that resumes.

    Known clips keep their split, whatever the rule or the data's own split would now be. A run trains on the same clips
    from its first step to its last, so clips that were added since are left out of both.

    Args:
        splits: of the data as they are now.
        kept: clips of the run by part and key.

    Returns:
        The training clips, the validation clips, and one line about the clips that were added; "" if there are none.
    """
    used = [splits.train, splits.validation]
    parts: list[list[Clip]] = []
    for part, own in zip((TRAINING, VALIDATION), used, strict=True):
        found: dict[str, Clip] = {}
        # Its own list last: the keys of a validation folder elsewhere may be those of training clips.
        for one in (*splits.lists.values(), own):
            found.update({one.key(clip): clip for clip in one.clips})
        parts.append([found[key] for key in kept.get(part, {}) if key in found])
    of_run = {key for part in kept.values() for key in part}
    added = [key for one in used for clip in one.clips if (key := one.key(clip)) not in of_run]
    line = ""
    if added:
        names = listed(added, most=3)
        line = f"{len(added)} clips were added to the data since the run began and are not used: {names}"
    training, validation = (replace(own, clips=tuple(part)) for own, part in zip(used, parts, strict=True))
    return training, validation, line


def without_trained(splits: Splits) -> tuple[ClipList, str]:
    """The validation clips that are not trained on as well, under any name: a copy would count as recognized.

    Args:
        splits: of the data.

    Returns:
        The clips, and one line about those that are left out; "" if there are none.

    Raises:
        ValueError: all validation clips are trained on.
    """
    clips = splits.validation
    name = next((name for name in ("val", "test") if splits.lists.get(name)), "")
    trained = set(splits.fingerprints["train"])
    shared = {clip for clip, one in zip(clips.clips, splits.fingerprints.get(name, ()), strict=True) if one in trained}
    if not shared:
        return clips, ""
    names = listed(sorted(clips.key(clip) for clip in shared), most=3)
    if len(shared) == len(clips):
        raise ValueError(f"all {len(clips)} validation clips are training clips as well: {names}; expected other clips")
    kept = tuple(clip for clip in clips.clips if clip not in shared)
    counted = f"{len(shared)} of {len(clips)} validation clips"
    return replace(clips, clips=kept), f"warning: {counted} are not used, because they are training clips: {names}"


def run_record(splits: Splits, training: ClipList, validation: ClipList, known: Mapping[str, str]) -> dict[str, str]:
    """The split of each clip by fingerprint: "train", "val" for the clips that choose the weights, or "test".

    A clip that the initial weights were trained on counts as trained on.

    Args:
        splits: of the data.
        training: the clips that are trained on.
        validation: the clips that choose the weights.
        known: record of the run that the initial weights come from.
    """
    prints: dict[Clip, str] = {}
    for split, one in splits.lists.items():
        prints.update(zip(one.clips, splits.fingerprints[split], strict=True))
    record = dict(known)
    parts = {"test": splits.lists.get("test", replace(training, clips=())), "val": validation, "train": training}
    for split, one in parts.items():
        for clip in one.clips:
            if record.get(prints[clip]) != "train":
                record[prints[clip]] = split
    return record


def record_tensors(record: Mapping[str, str]) -> dict[str, Tensor]:
    """The fingerprints of each split as a tensor of bytes, which files of weights hold in one piece."""
    found = {}
    for split in _SPLITS:
        text = "\n".join(one for one, own in record.items() if own == split and "\n" not in one)
        found[split] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    return found


def saved_record(content: Mapping[str, Any]) -> dict[str, str] | None:
    """The split in a file of weights; None if it has none, as those of older versions.

    Args:
        content: what `load_weights_file` returns.

    Raises:
        ValueError: the split is damaged.
    """
    held = content.get("extra")
    if not isinstance(held, dict) or "split" not in held:
        return None
    record: dict[str, str] = {}
    try:
        for split in _SPLITS:
            text = bytes(held["split"][split].to(torch.uint8).tolist()).decode()
            record.update(dict.fromkeys(filter(None, text.split("\n")), split))
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise ValueError("the split of its clips is damaged") from error
    return record


def record_of_weights(weights: str) -> dict[str, str]:
    """The split in the file that initial weights come from; empty if they are not from a file of ours that has one."""
    path = Path(weights)
    if path.suffix != ".pt" or not path.is_file():
        return {}
    try:
        return saved_record(load_weights_file(path)) or {}
    except ValueError:
        return {}  # another kind of file; loading the weights reports what is wrong with it
