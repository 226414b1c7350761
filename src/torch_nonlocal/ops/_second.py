"""Second derivatives of the softmax forms, for gradient penalties and other uses of `create_graph=True`.

A backward operator is derived part by part: ordinary operations recompute the definition on a part of the queries (of
the keys with normalize="queries") and are derived twice. The first gradients are concatenations of parts, or sums over
parts, and so are the second; the memory is that of one part. If the second gradients are derived again, autograd
records them as usual, and their graph holds all parts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torch_nonlocal._common.autocast import without_autocast
from torch_nonlocal.ops import dense
from torch_nonlocal.ops.frames import CausalFrames, numbers
from torch_nonlocal.ops.names import Normalize

PART_BYTES, ACCELERATOR_PART_BYTES = 2 * 2**20, 64 * 2**20
"""Size of the map of one part. About 18 tensors of this size are held at a time."""


Form = Callable[[Sequence[Any], slice, Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""A form on a part of the queries (of the keys with normalize="queries").

Called with the arguments of the backward operator, the part, and theta, phi, g and the key bias of the part.
"""


def register_second_gradients(backward: Any, *, normalize: Normalize, scale_at: int = -1) -> None:
    """Register the autograd formula of a backward operator of a softmax form over all keys.

    Args:
        backward: the operator, as for `register_form_gradients`.
        normalize: the axis of the softmax.
        scale_at: the index of the scale in the arguments. The two after it, if any, are those of `CausalFrames`.
    """

    def form(inputs: Sequence[Any], part: slice, theta: Tensor, phi: Tensor, g: Tensor, bias: Tensor | None) -> Tensor:
        options: dict[str, Any] = {"scale": inputs[scale_at], "key_bias_BM": bias, "normalize": normalize}
        if scale_at != -1:
            causal = CausalFrames(*inputs[scale_at + 1 : scale_at + 3])
            options["visible_NM"] = _visible(causal, inputs[1], inputs[2], part)
        return dense.softmax(theta, phi, g, **options)

    register_form_gradients(backward, form, normalize=normalize)


def register_form_gradients(backward: Any, form: Form, *, normalize: Normalize = "keys", rows: int = 1) -> None:
    """Register the autograd formula of a backward operator.

    Its arguments are dy, theta, phi, g, then the key bias or a tensor without gradient, and others without gradient.
    Its results are the gradients of theta, phi and g, and a fourth one if the operator has a key bias.

    Args:
        backward: the operator.
        form: the form whose gradients it computes, in ordinary operations.
        normalize: the axis of the softmax.
        rows: parts start at multiples of this number.
    """

    def setup(ctx, inputs, output):
        ctx.biased = len(output) > 3 and inputs[4] is not None
        ctx.tensors = [i for i, one in enumerate(inputs) if isinstance(one, Tensor)]
        ctx.others = [None if isinstance(one, Tensor) else one for one in inputs]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*(inputs[i] for i in ctx.tensors))

    def derive(ctx, *seconds):
        inputs = list(ctx.others)
        for i, tensor in zip(ctx.tensors, ctx.saved_tensors, strict=True):
            inputs[i] = tensor
        derived = _second_gradients(inputs, 5 if ctx.biased else 4, seconds, form, normalize, rows)
        return *derived, *(None,) * (len(inputs) - len(derived))

    backward.register_autograd(derive, setup_context=setup)


def _second_gradients(
    arguments: Sequence[Any],
    count: int,
    seconds: Sequence[Tensor | None],
    form: Form,
    normalize: Normalize,
    rows: int,
) -> list[Tensor | None]:
    """Return the gradients of dy, theta, phi, g and, if given, the key bias.

    Args:
        arguments: those of the backward operator.
        count: how many of them these tensors are, 4 or 5.
        seconds: the gradients of the gradients of theta, phi, g and, if given, the key bias.
        form: the form, in ordinary operations.
        normalize: the axis of the softmax.
        rows: parts start at multiples of this number.
    """
    inputs, seconds = arguments[:count], seconds[: count - 1]
    if all(second is None for second in seconds):
        return [None] * len(inputs)
    in_parts = (0, 1) if normalize == "keys" else (2, 3)  # dy and theta, or phi and g
    recorded = torch.is_grad_enabled()
    pieces: list[list[Tensor]] = [[] for _ in inputs]
    with torch.enable_grad(), without_autocast(inputs[0].device):
        for part in _parts(inputs, in_parts, rows):
            own = [_source(t[:, part] if i in in_parts else t, recorded) for i, t in enumerate(inputs)]
            dy, theta, phi, g, *bias = own
            y = form(arguments, part, theta, phi, g, bias[0] if bias else None)
            first = torch.autograd.grad(y, own[1:], dy, create_graph=True)
            given = [
                (gradient, second[:, part] if i in in_parts else second)
                for i, (gradient, second) in enumerate(zip(first, seconds, strict=True), start=1)
                if second is not None
            ]
            gradients, weights = zip(*given, strict=True)
            derived = torch.autograd.grad(
                gradients, own, [w.to(dy.dtype) for w in weights], create_graph=recorded, materialize_grads=True
            )
            for i, gradient in enumerate(derived):
                if i in in_parts or not pieces[i]:
                    pieces[i].append(gradient)
                else:
                    pieces[i][0] = pieces[i][0] + gradient
    return [torch.cat(piece, 1).to(tensor.dtype) for piece, tensor in zip(pieces, inputs, strict=True)]


def _visible(causal: CausalFrames, theta: Tensor, phi: Tensor, part: slice) -> Tensor:
    query_R, key_M = numbers(theta)[part], numbers(phi)
    return causal.visible(query_R, key_M, theta.shape[1], phi.shape[1])


def _source(tensor: Tensor, recorded: bool) -> Tensor:
    """Return the tensor as a source of a graph, in at least float32. It is detached if nothing records its gradient."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return tensor.to(wide) if recorded and tensor.requires_grad else tensor.detach().to(wide).requires_grad_()


def _parts(inputs: Sequence[Tensor], in_parts: Sequence[int], multiple: int) -> list[slice]:
    batch, queries, keys = inputs[1].shape[0], inputs[1].shape[1], inputs[2].shape[1]
    count, others = (queries, keys) if 1 in in_parts else (keys, queries)
    part_bytes = PART_BYTES if inputs[0].device.type == "cpu" else ACCELERATOR_PART_BYTES
    rows = max(part_bytes // (inputs[1].dtype.itemsize * batch * others), 16)
    rows = (rows + multiple - 1) // multiple * multiple
    return [slice(start, start + rows) for start in range(0, count, rows)]
