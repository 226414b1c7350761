"""Pictures of an evaluation for TensorBoard: the confusion matrix, and the attention of a block on a clip."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torch_nonlocal._common.files import printable
from torch_nonlocal.tasks.action.metrics import Scores, confusion_picture
from torch_nonlocal.tasks.attention_picture import draw, ends_of, look_at, margin, rendered

_MOST_CLASSES = 50  # larger confusion matrices are not legible


def confusion_image(scores: Scores, classes: Sequence[str]) -> Tensor | None:
    """The confusion matrix as (H, W, 3), uint8; None with more than 50 classes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    return None if len(classes) > _MOST_CLASSES else _tensor(rendered(confusion_picture(scores, classes)))


def attention_image(
    model: nn.Module,
    view_CTHW: Tensor,
    true: int,
    classes: Sequence[str],
    *,
    prepare: Callable[[Tensor], Tensor],
) -> Tensor | None:
    """The attention of a block from the position that contributes most to the predicted class, as (H, W, 3), uint8.

    The score of the predicted class is compared with that of the true class, or of the second class if the prediction
    is right.

    Args:
        model: a network in eval mode that returns scores (B, K), K >= 2; it does not change.
        view_CTHW: a view of a clip, uint8.
        true: the true class.
        classes: class names.
        prepare: maps views (B, C, T, H, W) to the network's input.

    Returns:
        None if there is nothing to draw: no blocks, untrained ones, or even weights.

    Raises:
        ImportError: matplotlib is not installed.
    """
    clip_BCTHW = prepare(view_CTHW[None].to(next(model.parameters()).device))
    with torch.no_grad():
        scores_K = model(clip_BCTHW)[0].float().softmax(0)
    guess, second = scores_K.topk(2).indices.tolist()
    other = second if guess == true else true
    look, _ = look_at(model, clip_BCTHW, margin(guess, other))
    if look is None:
        return None
    names = [printable(name) for name in classes]
    lines = [
        f"true {names[true]}, predicted {names[guess]} ({float(scores_K[guess]):.3f})",
        f"block {look.record.name}",
        f"ring: the position whose features contribute most to {names[guess]} against {names[other]}",
        f"arrows: its strongest links to {ends_of(look)}; colors: its weights, saturated at the strongest arrow",
    ]
    return _tensor(draw(view_CTHW.permute(1, 2, 3, 0), look, lines))


def _tensor(image: Any) -> Tensor:
    """An RGB image of PIL as (H, W, 3), uint8."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.reshape(image.height, image.width, 3)
