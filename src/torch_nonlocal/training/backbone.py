"""Training of the last layer and the non-local blocks alone, in the first epochs or always."""

from collections.abc import Iterable

from torch import nn

from torch_nonlocal.training.batch_norm import BatchNorm, blocks_in, inside


class Backbone:
    """The modules of a model except its head and its non-local blocks.

    While they are frozen, their weights get no gradient and their batch norms normalize with the running statistics.

    Args:
        model: the model.
        head: modules that are trained together with the blocks.
        name: what asks for it, for messages.

    Attributes:
        norms: batch norms of the backbone.

    Raises:
        ValueError: the model has neither a head nor blocks.
    """

    def __init__(self, model: nn.Module, head: Iterable[nn.Module], *, name: str) -> None:
        self._model = model
        self._trained = [*head, *blocks_in(model)]
        if not self._trained:
            raise ValueError(f"{name}: {type(model).__name__} has neither a last linear layer nor non-local blocks")
        trained = inside(self._trained)
        self.norms = [one for one in model.modules() if isinstance(one, BatchNorm) and id(one) not in trained]

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of the backbone that require a gradient now."""
        kept = {id(one) for module in self._trained for one in module.parameters()}
        return [one for one in self._model.parameters() if one.requires_grad and id(one) not in kept]


def last_layer(model: nn.Module) -> list[nn.Module]:
    """The last linear layer outside of non-local blocks in a list; empty if there is none."""
    in_blocks = inside(blocks_in(model))
    found: list[nn.Module] = [one for one in model.modules() if isinstance(one, nn.Linear) and id(one) not in in_blocks]
    return found[-1:]
