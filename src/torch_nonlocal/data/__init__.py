"""Datasets of clips: folders and lists of videos, moving digits, checks and splits."""

from typing import TYPE_CHECKING

from torch_nonlocal._common.lazy import lazy_exports

if TYPE_CHECKING:
    from torch_nonlocal.data.bikes_clip import bikes
    from torch_nonlocal.data.broken import BrokenClips
    from torch_nonlocal.data.check import CheckReport, ClipReport, check_clips
    from torch_nonlocal.data.clip_list import Clip, ClipList, split_clips
    from torch_nonlocal.data.dataset import ClipDataset, ViewDataset, collate_clips
    from torch_nonlocal.data.digit_clips import DigitClips
    from torch_nonlocal.data.find import available_splits, find_clips
    from torch_nonlocal.data.moving_digits import RELATIONS, Clips, MovingDigits, MovingDigitsDataset
    from torch_nonlocal.data.splits import Splits, assign, train_and_test, trained_on

__all__ = [
    "RELATIONS",
    "BrokenClips",
    "CheckReport",
    "Clip",
    "ClipDataset",
    "ClipList",
    "ClipReport",
    "Clips",
    "DigitClips",
    "MovingDigits",
    "MovingDigitsDataset",
    "Splits",
    "ViewDataset",
    "assign",
    "available_splits",
    "bikes",
    "check_clips",
    "collate_clips",
    "find_clips",
    "split_clips",
    "train_and_test",
    "trained_on",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "RELATIONS": ".moving_digits",
        "BrokenClips": ".broken",
        "CheckReport": ".check",
        "Clip": ".clip_list",
        "ClipDataset": ".dataset",
        "ClipList": ".clip_list",
        "ClipReport": ".check",
        "Clips": ".moving_digits",
        "DigitClips": ".digit_clips",
        "MovingDigits": ".moving_digits",
        "MovingDigitsDataset": ".moving_digits",
        "Splits": ".splits",
        "ViewDataset": ".dataset",
        "assign": ".splits",
        "available_splits": ".find",
        "bikes": ".bikes_clip",
        "check_clips": ".check",
        "collate_clips": ".dataset",
        "find_clips": ".find",
        "split_clips": ".clip_list",
        "train_and_test": ".splits",
        "trained_on": ".splits",
    },
)
