"""Sets that are too small for the default options of training."""

from pathlib import Path

from torch_nonlocal.data.tracklets.faults import FEWEST_IDENTITIES, persons
from torch_nonlocal.data.tracklets.tracklet import Problem, TrackletData
from torch_nonlocal.tasks.reid.data import training_of
from torch_nonlocal.tasks.reid.spec import REID
from torch_nonlocal.training.identity_sampler import IdentityBatches


def too_small_for_defaults(found: TrackletData, data: Path, split: int) -> list[Problem]:
    """A remark if `nonlocal train reid` without options refuses a set, since its batches have more identities.

    Args:
        found: the set.
        data: its folder or list.
        split: number of its random split.
    """
    if len(persons(found.train)) < FEWEST_IDENTITIES:
        return []
    _, recipe = REID.default_recipe(data)
    training = training_of(found, recipe.settings, split, data)
    sizes = {"per_identity": recipe.settings.per_identity, "batch_size": recipe.config.batch_size}
    try:
        IdentityBatches(training.labels, training.cameras, **sizes, seed=0)
    except ValueError as error:
        return [Problem("few identities", "train", f"nonlocal train reid refuses its default batch size: {error}")]
    return []
