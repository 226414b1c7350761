"""Non-local means within a search window: one pass over the image for each offset of the window.

For an offset o, the squared differences of pixel i and pixel i + o are summed over channels and over the patch, which
gives the distance of patch i to patch i + o for all pixels at once:

    d_i(o) = sum over k in patch of |x_{i+k} - x_{i+o+k}|^2

Weights are symmetric, so half of the offsets suffice, and each adds to pixel i and to pixel i + o. The sum over a patch
of p pixels along an axis takes at most 2 log2(p) additions of shifted images; running sums over the whole image would
lose digits in float32. For the same reason, weighted differences x_j - x_i are summed rather than x_j, and each row of
offsets is summed by itself first.

The last two axes are one axis here, so that a shift by rows and columns is a shift of one contiguous axis. The image is
processed in bands of rows whose buffers stay in the cache. The memory is a few copies of one image.

Shapes: C channels, T frames, H rows, W columns, P columns with the border, L = rows x P.
"""

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from torch_nonlocal.denoising.border import reflected
from torch_nonlocal.denoising.scaling import Filter, Sizes

BAND_BYTES = 2**21  # of a buffer for one band; smaller ones were measured to be slower, larger ones no faster
ACCELERATOR_BAND_BYTES = 2**26


def denoise(image_CTHW: Tensor, patch: Sizes, radius: Sizes, scale: Filter) -> Tensor:
    """Average each pixel with the pixels of its window.

    Args:
        image_CTHW: float32 or float64, (C, T, H, W).
        patch: size of a patch along T, H and W, odd.
        radius: largest offset along T, H and W.
        scale: exponents of the weights.

    Returns:
        (C, T, H, W), the weighted means.
    """
    C, T, H, W = image_CTHW.shape
    padded_CTHP = reflected(image_CTHW * scale.factor, patch)
    border = patch[1] - 1
    rows = _rows_of_band(padded_CTHP, border)
    bands = _Bands(padded_CTHP, patch, rows + border)
    sums_VTHW = image_CTHW.new_zeros((C + 1, T, H, W))  # of the weighted differences, and of the weights
    partial = image_CTHW.new_empty((2, C + 1, T, rows, W))
    for first in range(0, H, rows):
        for step_t, step_y in half(radius[0], radius[1]):
            frames, lines = inside(T, step_t), inside(H, step_y)
            lines = slice(max(lines.start, first), min(lines.stop, first + rows))
            if lines.start >= lines.stop:
                continue
            here_VTHW, there_VTHW = partial[:, :, : frames.stop, : lines.stop - lines.start].zero_()
            for step_x in range(-radius[2] if (step_t, step_y) > (0, 0) else 1, radius[2] + 1):
                step, columns = (step_t, step_y, step_x), inside(W, step_x)
                distance_THW, diff_CTHW = bands.compare((frames, lines, columns), step)
                weight_THW = scale.weights_(distance_THW.neg_())
                here, there = here_VTHW[..., columns], there_VTHW[..., moved(columns, step_x)]
                here[:C].addcmul_(weight_THW, diff_CTHW)
                there[:C].addcmul_(weight_THW, diff_CTHW, value=-1)
                here[C].add_(weight_THW)
                there[C].add_(weight_THW)
            sums_VTHW[:, frames, lines] += here_VTHW
            sums_VTHW[:, moved(frames, step_t), moved(lines, step_y)] += there_VTHW
    total_THW = sums_VTHW[C].add_(1)  # the weight of a pixel itself, whose difference is 0
    return image_CTHW + sums_VTHW[:C] / (total_THW * scale.factor)


class _Bands:
    """Compares patches of a band of rows with those at an offset, in buffers that are used again."""

    def __init__(self, padded_CTHP: Tensor, patch: Sizes, rows: int) -> None:
        C, T, _, self._width = padded_CTHP.shape
        self._flat_CTL = padded_CTHP.flatten(2)
        self._patch = patch
        self._diff = padded_CTHP.new_empty(C * T * rows * self._width)
        self._work = padded_CTHP.new_empty((3, T * rows * self._width))

    def compare(self, pixels: tuple[slice, slice, slice], step: Sizes) -> tuple[Tensor, Tensor]:
        """Squared distances of the patches at pixels j from those at pixels i, and the differences x_j - x_i.

        Args:
            pixels: frames, rows and columns of the pixels i.
            step: from i to j.

        Returns:
            distances, (T, H, W), and differences, (C, T, H, W); valid until the next call.
        """
        width, (t, y, x) = self._width, self._patch
        frames, rows, columns = (one.stop - one.start for one in pixels)
        lines, length = rows + y - 1, (rows + y - 2) * width + columns + x - 1
        count = frames + t - 1
        start, shift = pixels[1].start * width + pixels[2].start, step[1] * width + step[2]
        here = self._flat_CTL[:, :count, start : start + length]
        there = self._flat_CTL[:, step[0] : step[0] + count, start + shift : start + shift + length]
        whole_CTL = self._diff[: here.shape[0] * count * lines * width].view(-1, count, lines * width)
        diff_CTL = torch.sub(there, here, out=whole_CTL[..., :length])
        buffers = self._work[:, : count * lines * width].view(3, count, lines * width)
        distance_TL = torch.mul(diff_CTL[0], diff_CTL[0], out=buffers[0, :, :length])
        for channel_TL in diff_CTL[1:]:
            distance_TL.addcmul_(channel_TL, channel_TL)
        for dim, size, gap in ((1, x, 1), (1, y, width), (0, t, 1)):
            distance_TL = _box(distance_TL, buffers[1], buffers[2], size, dim, gap)
        distance_THW = buffers[0].unflatten(1, (lines, width))[:frames, :rows, :columns]
        centers = whole_CTL.unflatten(2, (lines, width))[:, t // 2 :, y // 2 :, x // 2 :]
        return distance_THW, centers[:, :frames, :rows, :columns]


def half(frames: int, rows: int) -> Iterator[tuple[int, int]]:
    """Steps of which no two are opposite: the first component that is not zero is positive."""
    return (step for step in product(range(frames + 1), range(-rows, rows + 1)) if step >= (0, 0))


def inside(size: int, step: int) -> slice:
    """The positions of an axis that are in the image before and after a step."""
    return slice(max(0, -step), min(size, size - step))


def moved(positions: slice, step: int) -> slice:
    return slice(positions.start + step, positions.stop + step)


def _box(sums_TL: Tensor, one: Tensor, other: Tensor, size: int, dim: int, step: int) -> Tensor:
    """Sum `size` (odd) elements at distances `step`, in place: element k becomes that of k, k + step, k + 2 step, ...

    Args:
        sums_TL: the elements; the first ones become the sums, which are returned.
        one: a buffer of the same size or larger, overwritten.
        other: likewise.
        size: number of elements.
        dim: their axis.
        step: their distance.
    """
    one, other = (buffer[: sums_TL.shape[0], : sums_TL.shape[1]] for buffer in (one, other))
    length = sums_TL.shape[dim]
    result = sums_TL.narrow(dim, 0, length - (size - 1) * step)
    run, covered, width = sums_TL, 1, 2  # run[k] is the sum of width / 2 elements from k
    while width <= size:
        length -= width // 2 * step
        doubled = one.narrow(dim, 0, length)
        torch.add(run.narrow(dim, 0, length), run.narrow(dim, width // 2 * step, length), out=doubled)
        if size & width:
            result.add_(doubled.narrow(dim, covered * step, result.shape[dim]))
            covered += width
        run, one, other, width = doubled, other, one, 2 * width
    return result


def _rows_of_band(padded_CTHP: Tensor, border: int) -> int:
    """Rows of a band, without the rows around it that its patches need."""
    _, frames, rows, width = padded_CTHP.shape
    most = BAND_BYTES if padded_CTHP.device.type == "cpu" else ACCELERATOR_BAND_BYTES
    fitting = most // (frames * width * padded_CTHP.element_size()) - border
    return min(max(fitting, border, 8), rows - border)
