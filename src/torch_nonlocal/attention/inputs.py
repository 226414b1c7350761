"""What a network is given: an example to rerun it, and the place of its images in the maps that it makes of them.

Detectors take a list of images and resize and pad them themselves. The pixels of a record are those of the images that
the user gave, not those of the batch that the network made.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.receptive import Example

_PLAIN = (type(None), bool, int, float, str)  # arguments that remain valid for an input of another size


class Images(NamedTuple):
    """Shapes of the images that a network is given.

    Attributes:
        shapes: (C, *size) of each image, or with `batched` the one shape (B, C, *size).
        batched: the images are one tensor.
    """

    shapes: list[tuple[int, ...]]
    batched: bool


class Placement(NamedTuple):
    """An image in the batch that a network makes of its images.

    Attributes:
        size: size of the image as given.
        inside: size of the image in the batch, from its first pixel on; padding follows.
        is_known: False if `inside` is an assumption.
    """

    size: tuple[int, ...]
    inside: tuple[int, ...]
    is_known: bool

    def geometry(self, of_batch: Geometry) -> Geometry:
        """Return the geometry in pixels of the image, given that in pixels of the batch."""
        scale = [inside / own for inside, own in zip(self.inside, self.size, strict=True)]
        return dataclasses.replace(
            of_batch,
            input_size=self.size,
            offset=tuple((o + 0.5) / s - 0.5 for o, s in zip(of_batch.offset, scale, strict=True)),
            stride=tuple(step / s for step, s in zip(of_batch.stride, scale, strict=True)),
            probed=of_batch.probed and self.is_known,
        )


def example_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[int, ...], Example | None]:
    """Return the shape of a module's first batched map and an example to rerun the module; () and None if unknown.

    The map is an argument, or a tensor of four or more axes in a list, tuple or dict.
    """
    leaves, structure = pytree.tree_flatten((args, kwargs))
    direct = {id(value) for value in (*args, *kwargs.values())}
    found = [
        i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.ndim >= 3 + (id(leaf) not in direct)
    ]
    if not found:
        return (), None
    x = leaves[found[0]]
    shape = tuple(x.shape)
    rest: list[Any] = [None if i == found[0] else leaf for i, leaf in enumerate(leaves)]  # frees the input's memory
    if not x.is_floating_point() or any(not isinstance(leaf, _PLAIN) for leaf in rest):
        return shape, None
    return shape, Example(shape[1], shape[2:], x.dtype, x.device, _caller(rest, structure, found[0]))


def _caller(rest: list[Any], structure: pytree.TreeSpec, place: int) -> Callable[[nn.Module, Tensor], Any]:
    def call(model: nn.Module, x: Tensor) -> Any:
        args, kwargs = pytree.tree_unflatten([x if i == place else leaf for i, leaf in enumerate(rest)], structure)
        return model(*args, **kwargs)

    return call


def images_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Images | None:
    """Return the images among the arguments of a network: a list of tensors or of dicts with one, or a batch."""
    found = (_images(value) for value in (*args, *kwargs.values()))
    return next((images for images in found if images is not None), None)


def _images(value: Any) -> Images | None:
    if isinstance(value, Tensor):
        return Images([tuple(value.shape)], batched=True) if value.ndim >= 3 else None
    if isinstance(value, dict):
        return images_of(tuple(value.values()), {})
    if isinstance(value, list | tuple):
        shapes = [_shape(item) for item in value]
        return Images([shape for shape in shapes if shape], batched=False) if shapes and all(shapes) else None
    return _images(getattr(value, "tensors", None)) if hasattr(value, "tensors") else None  # a NestedTensor


def _shape(item: Any) -> tuple[int, ...]:
    if isinstance(item, dict):
        item = item.get("image", next((value for value in item.values() if isinstance(value, Tensor)), None))
    return tuple(item.shape) if isinstance(item, Tensor) else ()


def placements(images: Images, batch: tuple[int, ...], inside: Sequence[tuple[int, ...]] | None) -> list[Placement]:
    """Return the place of each image in the batch, or one place for all; none if the batch is not one of the images.

    Args:
        images: what the network was given.
        batch: shape (B, C, *size) of the batch that the network made of them.
        inside: sizes of the images in the batch, where known.
    """
    (count, channels), size = batch[:2], batch[2:]
    if images.batched and len(images.shapes[0]) == len(batch):
        given = [images.shapes[0][1:]] * images.shapes[0][0]
    else:
        given = images.shapes
    if any(len(shape) != len(batch) - 1 or shape[0] != channels for shape in given):
        return []
    sizes = [shape[1:] for shape in given]
    if inside is not None and len(inside) == len(sizes):
        found = [Placement(own, new, is_known=True) for own, new in zip(sizes, inside, strict=True)]
    elif tuple(map(max, zip(*sizes, strict=True))) == size:  # padded to the largest
        found = [Placement(own, own, is_known=True) for own in sizes]
    else:
        found = [Placement(own, size, is_known=False) for own in sizes]
    if len(found) == count:
        return found
    return found[:1] if len(set(found)) == 1 else []
