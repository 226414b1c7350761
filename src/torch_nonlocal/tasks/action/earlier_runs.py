"""Runs that an earlier version began: they resume as they began, without the options that it did not have."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch_nonlocal.tasks.action.settings import AUTO, NONE, ActionSettings

_WITHOUT: Mapping[str, Any] = {
    "balance": NONE, "metric": "accuracy", "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0, "rand_augment": 0,
    "dropout": 0.0, "block": "non_local",
}  # fmt: skip
"""Value of each later setting that trains as the versions without it did."""


def as_begun(settings: ActionSettings, saved: Mapping[str, Any]) -> ActionSettings:
    """The settings for a run that resumes: what is chosen automatically is as in the version that began it.

    Args:
        settings: as the user gave them.
        saved: what the run says about itself.
    """
    chosen = {name: value for name, value in _as_earlier(settings.multi_label).items() if name not in saved}
    return replace(settings, **{name: value for name, value in chosen.items() if getattr(settings, name) == AUTO})


def about_as_begun(about: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """What a resumed run says about itself, without options that the version that began it lacked and that are off.

    Version 0.1 did not save the inputs and the kind of temporal kernels.
    """
    earlier = _as_earlier(about.get("multi_label"))
    unknown = [name for name, value in earlier.items() if name not in saved and about.get(name) == value]
    unknown += [name for name in ("inputs", "temporal") if name not in saved]
    return {name: value for name, value in about.items() if name not in unknown}


def _as_earlier(multi_label: Any) -> dict[str, Any]:
    return {**_WITHOUT, "metric": "mAP"} if multi_label else dict(_WITHOUT)
