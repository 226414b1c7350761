"""Dropout before the classifier, for networks of any source."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_nonlocal.models.fitting import replace_last_linear


class DropoutLinear(nn.Linear):
    """A linear layer with dropout of its inputs in training; its parameters have the names of a linear layer's."""

    p: float = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """Apply dropout, then the layer."""
        return super().forward(F.dropout(input, self.p, self.training))


def add_dropout(model: nn.Module, p: float) -> None:
    """Drop inputs of the last linear layer with probability `p`, in place; weights and their names do not change.

    Raises:
        ValueError: the model has no linear layer.
    """

    def with_dropout(last: nn.Linear) -> DropoutLinear:
        with torch.device("meta"):  # no random numbers are drawn
            dropped = DropoutLinear(last.in_features, last.out_features, bias=last.bias is not None)
        dropped.weight, dropped.bias, dropped.p = last.weight, last.bias, p
        return dropped.train(last.training)

    replace_last_linear(model, with_dropout)
