"""The non-local block, z = W_z y + x, for 1D, 2D and 3D maps (Wang et al., CVPR 2018, eq. 6)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from torch_nonlocal._common.tracing import needs_plain_operations
from torch_nonlocal.functional import Algorithm, Hard, Normalize, Pairwise, selection_of
from torch_nonlocal.layers.arranged import arranged_sum, group_algorithm
from torch_nonlocal.layers.combinations import check_combination
from torch_nonlocal.layers.described import Described
from torch_nonlocal.layers.groups import Attend, Causal, Groups, Windows
from torch_nonlocal.layers.identity import zero_initialized
from torch_nonlocal.layers.inputs import check_input, check_key_size, is_left_out
from torch_nonlocal.layers.keys import Keys, key_module
from torch_nonlocal.layers.layout import Layout, check_layout, from_map
from torch_nonlocal.layers.norm import NormKind, zero_norm
from torch_nonlocal.layers.observed import show_observers
from torch_nonlocal.layers.operands import Operands, embedded, with_folded_scores
from torch_nonlocal.layers.options import Scale, Subsample, check_options, softmax_scale
from torch_nonlocal.layers.projection import apply, project, with_norm
from torch_nonlocal.layers.regions import keep_regions, saliency_map
from torch_nonlocal.layers.scores import pair_scores
from torch_nonlocal.layers.small import small_forward
from torch_nonlocal.layers.streamed import stream_of_blocks
from torch_nonlocal.layers.weighted_sum import weighted_sum


class NonLocal(Described):
    """Base class of the non-local blocks `NonLocal1d`, `NonLocal2d` and `NonLocal3d`.

    A block adds to each position a weighted sum of the features g at all positions: (B, C, *size) -> (B, C, *size).
    A new block is the identity, since its norm (W_z for norm=None) is initialized to zero.

    Child modules: `theta`, `phi` and `g` are 1x1 convolutions from C to D channels, `out` (W_z) is a 1x1 convolution
    from D to C channels, followed by `norm`. The form "concatenation" also has `score` (w_f), a linear map from 2D
    channels to 1. The form "gaussian" compares x with itself; there, `theta` and `phi` are identities. Blocks with
    `regions` have `saliency`, a 1x1 convolution from C channels to 1.

    Args:
        channels: number of channels C of the map.
        inner_channels: inner width D. Defaults to C / 2.
        pairwise: pairwise function f, "embedded_gaussian", "gaussian", "dot_product" or "concatenation".
        attend: positions that a position attends to. "spacetime": all positions of all frames. For 3D maps also
            "space": the positions of its frame, and "time": its pixel in every frame. For 2D and 3D maps also
            "criss_cross": its row and its column, in its frame. "channel" has weights among channels, softmax over the
            channels j of scale * theta_i . phi_j, where products sum over all positions; scale=-1.0 are the weights of
            DANet's code. The form "gaussian" then has inner_channels=C.
        causal: "frames" for blocks in which a position attends to its own and to earlier frames only, for video as it
            arrives; None for all frames. The number of keys, by which dot products and concatenations are divided, is
            then the number that the position attends to. 3D maps with attend="spacetime" or "time" only.
        window_frames: with causal="frames", the number of frames that a position attends to, its own included. None for
            all up to its own.
        windows: sizes of windows, one per axis, or None for an axis without windows; a single size stands for all axes
            of the sum. A position attends to the positions of its own window: (4, None, None) are groups of 4 frames,
            (None, 7, 7) are local windows. The last window of an axis is smaller where the size does not divide the
            map.
        interlaced: along an axis of n positions with ceil(n / w) windows, a window consists of positions that are this
            far apart, not of neighbors, as in interlaced sparse attention.
        keys: "pool" for max pooling by `subsample`, "stride" for every `subsample`-th position, "pyramid" for averages
            over 1, 3, 6 and 8 parts of each axis of an image, of each frame of a clip (APNB).
        subsample: pooling factor or stride of the keys: one for the axes H and W (L for sequences, T for
            attend="time"), or one per axis. None uses every position as a key.
        key_channels: number of channels of another map, `keys_from`, from which phi and g are computed. None for C.
        top_k: number of keys of each query, those with the largest logits, over which the weights are renormalized.
            None for all. The last windows of an axis may have fewer.
        hard: True gives each query the value of its strongest key alone, with the straight-through gradient of soft
            weights; "gumbel" that of a key drawn by Gumbel noise in train mode, and of the strongest in eval mode.
        temperature: divisor of the logits in the gradient of `hard`.
        regions: number of keys of a group, the same for all its queries: the positions with the largest saliency, whose
            values are multiplied by the sigmoid of it. None for all positions. See `saliency_map`.
        pool_first: pool x before phi and g, as the code of the paper's authors does, instead of the outputs phi(x) and
            g(x), as the paper describes. The results differ for the same weights.
        scale: factor of theta_i . phi_j before the softmax: None for 1 (the paper), "sqrt" for the inner width to the
            power -1/2, or a number. Softmax forms only.
        norm: normalization after W_z: "batch", "group", "layer" or None.
        norm_options: "eps", "momentum" (batch) and "num_groups" (group) of the norm, if they are not the usual ones.
        normalize: axis over which weights sum to one: "keys" for the weights of each query (the paper), "queries" for
            the weights of each key. The dot product is divided by the number of keys or of queries, which differ if
            keys are pooled. Not for the concatenation form.
        algorithm: how the sums are computed. All algorithms give the same result; see `torch_nonlocal.functional` and
            `torch_nonlocal.explain`.
        checkpoint: recompute the block in backward instead of keeping its activations. The norm is not recomputed,
            since this would update its running statistics twice.
        layout: order of the axes of input and output. "channels_first": (B, C, *size). "channels_last":
            (B, *size, C), as in Swin. "tokens": (B, P + N, C), as in ViT, where the last N tokens are the positions of
            `grid`, row by row, and the P tokens before them pass unchanged. "frames": (B * T, C, H, W), as in networks
            that see the frames of a clip as images (TSM). `NonLocal3d` only, with grid=(T,).
        grid: sizes of the map of tokens, such as (14, 14), one per axis of the block, or the number of frames of a
            clip, such as (8,). layout="tokens" and layout="frames" only.
        prefix_tokens: number P of tokens before the map. None accepts any number. layout="tokens" only.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        ValueError: if an option has an invalid value.

    Reference: Wang et al., Non-local Neural Networks, CVPR 2018.
    """

    _conv: ClassVar[type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]]

    def __init__(
        self,
        channels: int,
        *,
        inner_channels: int | None = None,
        pairwise: Pairwise = "embedded_gaussian",
        attend: Attend = "spacetime",
        causal: Causal = None,
        window_frames: int | None = None,
        windows: Windows = None,
        interlaced: bool = False,
        keys: Keys = "pool",
        subsample: Subsample = None,
        key_channels: int | None = None,
        top_k: int | None = None,
        hard: Hard = False,
        temperature: float = 1.0,
        regions: int | None = None,
        pool_first: bool = False,
        scale: Scale = None,
        norm: NormKind | None = "batch",
        norm_options: Mapping[str, float] | None = None,
        normalize: Normalize = "keys",
        algorithm: Algorithm = "auto",
        checkpoint: bool = False,
        layout: Layout = "channels_first",
        grid: Sequence[int] | None = None,
        prefix_tokens: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if type(self) is NonLocal:
            raise TypeError("NonLocal is an abstract base class: use NonLocal1d, NonLocal2d or NonLocal3d")
        check_options(channels, inner_channels, pairwise, normalize, algorithm)
        groups = Groups(attend, self.dims, causal, window_frames, windows, interlaced)
        factors = groups.pool_factors(subsample)
        selection = selection_of(top_k, hard, temperature)
        check_combination(
            groups=groups,
            pairwise=pairwise,
            scale=scale,
            normalize=normalize,
            algorithm=algorithm,
            factors=factors,
            keys=keys,
            channels=channels,
            inner=inner_channels,
            key_channels=key_channels,
            selection=selection,
            regions=regions,
        )
        every = groups.mixes_channels and pairwise == "gaussian"
        inner = (channels if every else max(channels // 2, 1)) if inner_channels is None else inner_channels
        width = channels if pairwise == "gaussian" else inner
        factory: dict[str, Any] = {"device": device, "dtype": dtype}

        self._widths = (channels, inner)  # where the children do not show theirs
        self.pairwise, self.normalize = pairwise, normalize
        self.groups, self.subsample, self.keys, self.key_channels = groups, factors, keys, key_channels
        self.selection, self.regions = selection, regions
        self.pool_first, self.norm_kind = pool_first, norm
        self.grid = check_layout(layout, grid, prefix_tokens, self.dims)
        self.layout, self.prefix_tokens = layout, prefix_tokens
        self.algorithm, self.checkpoint = algorithm, checkpoint
        self.scale = softmax_scale(scale, width, pairwise)

        conv, source = self._conv, key_channels or channels
        embeds = pairwise != "gaussian"
        self.theta = conv(channels, inner, 1, **factory) if embeds else nn.Identity()
        self.phi = conv(source, inner, 1, **factory) if embeds else nn.Identity()
        self.g = conv(source, inner, 1, **factory)
        self.score = nn.Linear(2 * inner, 1, bias=False, **factory) if pairwise == "concatenation" else None
        self.saliency = None if regions is None else conv(source, 1, 1, **factory)
        self.pool = key_module(keys, factors, self.dims)
        self.out = conv(inner, channels, 1, **factory)
        self.norm = zero_norm(norm, channels, self.dims, norm_options, **factory)
        if norm is None:
            zero_initialized(self.out)
        self._awaits_values = self.g.weight.is_meta

    def forward(self, x: Tensor, keys_from: Tensor | None = None) -> Tensor:
        """Apply the block to a map (B, C, *size), or to a tensor in its `layout`. The shape does not change.

        Args:
            x: the map of queries.
            keys_from: another map, in the same layout, that the keys and values are computed from: (B, C', *size'), C'
                being `key_channels`. Its size equals that of x on the axes that the sum does not run over and on those
                with windows, and on the time axis of causal blocks. None for x itself.

        Raises:
            ValueError: if the number of axes or channels is wrong, or the map is too small for the pooling factors,
                `top_k` or `regions`.
        """
        if keys_from is None and (small := small_forward(self, x)) is not None:
            return small
        other = None if is_left_out(keys_from) else keys_from
        check_input(self, x, other)
        source = None if other is None else self.to_map(other)
        return x + from_map(self._update(self.to_map(x), source), self.layout, x)

    def check_size(self, size: Sequence[int]) -> None:
        """Check that each query of a map of a size has a key, and as many as are selected.

        Raises:
            ValueError: if a pool, `top_k` or `regions` is larger than the map allows.
        """
        check_key_size(self, size, size)

    def _update(self, x: Tensor, keys_from: Tensor | None) -> Tensor:
        """Return what the block adds to a map (B, C, *size)."""
        if self.checkpoint and self.training and torch.is_grad_enabled():
            expanded = recompute(lambda *maps: self._expanded(self._response(*maps)), x, keys_from, use_reentrant=False)
            return self.norm(expanded)
        y = self._response(x, keys_from)
        folded = None if needs_plain_operations(x) else with_norm(self.out, self.norm, y)
        if folded is None:
            return self.norm(self._expanded(y))
        return apply(y, [folded])[0]

    def embed(self, x: Tensor, keys_from: Tensor | None = None) -> Operands:
        """Return theta (B', N, D), phi (B', M, D) and g (B', M, V) of a map (B, C, *size).

        B' is the batch size times the number of groups, which windows do not divide. With attend="channel", theta, phi
        and g are (B, D, N).

        Args:
            x: the map of queries.
            keys_from: the map of keys, (B, C', *size'); None for x.
        """
        return embedded(self, x, keys_from)

    def _expanded(self, y: Tensor) -> Tensor:
        """Return W_z y, the input of the norm: (B, C, *size)."""
        return project(y, [self.out], contiguous=True)[0]

    def _response(self, x: Tensor, keys_from: Tensor | None) -> Tensor:
        """Return y as a map (B, V, *size)."""
        folded = with_folded_scores(self, x, keys_from)
        operands = self._operands(x, keys_from) if folded is None else folded
        grid, source = x.shape[2:], x if keys_from is None else keys_from
        attending = stream_of_blocks()
        if attending is None:
            show_observers(self, self, x, None if folded is not None else operands[:2], keys_from)
        if attending is None or not self.causal:
            if self.regions is not None:
                operands = keep_regions(self, operands, source)
            y = arranged_sum(self, operands, grid, source.shape[2:])
        else:
            y = self.groups.to_map(attending(self, *operands, grid), grid)
        if needs_plain_operations(x) or x.shape[0] == 1 or not x.is_contiguous():
            return y
        return y.contiguous()  # `out` convolves batches, in the memory order of its input

    def _operands(self, x: Tensor, keys_from: Tensor | None) -> Operands:
        """Return theta, phi and g of a map (B, C, *size), or a, b and g in the concatenation form."""
        theta_BND, phi_BMD, g_BMV = self.embed(x, keys_from)
        if self.pairwise != "concatenation":
            return theta_BND, phi_BMD, g_BMV
        return *self.scores(theta_BND, phi_BMD, groups=self.groups.count(x.shape[2:])), g_BMV

    def respond(
        self, theta_BND: Tensor, phi_BMD: Tensor, g_BMV: Tensor, *, groups: int = 1, frames: int | None = None
    ) -> Tensor:
        """Return the weighted sums y (B', N, V) of eq. 1.

        Args:
            theta_BND: queries, (B', N, D).
            phi_BMD: keys, (B', M, D).
            g_BMV: values, (B', M, V).
            groups: as for `scores`.
            frames: the number of frames of the positions, for causal="frames" only.

        Raises:
            ValueError: if the block is causal and `frames` is not given, or the other way around, or if the block has
                windows or attends to rows and columns.
        """
        if self.windows is not None or self.groups.is_cross:
            raise ValueError(f"a position attends to {self.groups.within}, which theta and phi alone do not show")
        if self.regions is not None:
            raise ValueError(f"regions={self.regions} selects keys by their saliency, which theta and phi do not show")
        if (frames is None) == (self.causal is not None):
            needed = "the number of frames" if self.causal else "None"
            raise ValueError(f"frames={frames!r}: expected {needed} for causal={self.causal!r}")
        if self.pairwise == "concatenation":
            return self._weighted_sum(*self.scores(theta_BND, phi_BMD, groups=groups), g_BMV, frames)
        return self._weighted_sum(theta_BND, phi_BMD, g_BMV, frames)

    def _weighted_sum(self, query: Tensor, key: Tensor, g_BMV: Tensor, frames: int | None) -> Tensor:
        return weighted_sum(self, query, key, g_BMV, frames, group_algorithm(self))

    def saliency_map(self, x: Tensor) -> Tensor:
        """Return the saliency of every position, in [0, 1], for viewing: (B, *size).

        Args:
            x: the map that the keys are computed from, in the layout of the block.

        Raises:
            ValueError: if the block has no `regions`.
        """
        if self.saliency is None:
            raise ValueError("the block has no saliency: expected a block with regions=k")
        return saliency_map(self, self.to_map(x))

    def scores(self, theta_BND: Tensor, phi_BMD: Tensor, *, groups: int = 1) -> tuple[Tensor, Tensor]:
        """Return a_i = w_theta . theta_i (B', N) and b_j = w_phi . phi_j (B', M), where w_f = [w_theta, w_phi].

        Args:
            theta_BND: queries, (B', N, D).
            phi_BMD: keys, (B', M, D).
            groups: groups per batch item, B' / B. A `score` that is not an ordinary linear layer is called once, with
                one row per batch item.

        Raises:
            ValueError: if the form is not "concatenation".
        """
        if self.score is None:
            raise ValueError(f"pairwise={self.pairwise!r} has no scores: expected 'concatenation'")
        return pair_scores(self.score, theta_BND, phi_BMD, groups)

    def _last(self) -> nn.Module:
        """The module whose zero parameters make the block the identity: the norm, or W_z where there is none."""
        return self.out if next(self.norm.parameters(), None) is None else self.norm


class NonLocal1d(NonLocal):
    """Non-local block for sequences (B, C, L). `NonLocal` describes the options."""

    dims = 1
    _conv = nn.Conv1d


class NonLocal2d(NonLocal):
    """Non-local block for images (B, C, H, W). `NonLocal` describes the options."""

    dims = 2
    _conv = nn.Conv2d


class NonLocal3d(NonLocal):
    """Non-local block for clips (B, C, T, H, W). `NonLocal` describes the options."""

    dims = 3
    _conv = nn.Conv3d
