"""What a network does with an input, without computing it: shapes, FLOPs and the memory of a training step.

A copy of the network with fake tensors (they have a shape, strides and a device, but no values) runs forward and
backward in a moment and in next to no memory, through the very operations of a real run. Memory is counted on the way:
tensors as they come and go, those inside our operators' kernels included.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from torch_nonlocal._common.capture import capture_outputs
from torch_nonlocal.functional import Algorithm
from torch_nonlocal.insertion.insert import attach, make_block, remove
from torch_nonlocal.insertion.probe import Output, call, outputs_by_run
from torch_nonlocal.layers import NonLocal

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
_OUR_OPERATORS = "torch_nonlocal"


class Rehearsal:
    """One run of a network on an input; the network itself is left alone, and runs only if it must.

    Attributes:
        outputs: what every module returned, by name, an item a run; tensors are fake.
        flops: of the network's forward pass as PyTorch's counter has them, two operations a multiply-add.

    Args:
        model: any network.
        example_input: as for `insert`.

    Raises:
        ValueError: the network does not run on this input; the message has the network's own words.
    """

    def __init__(self, model: nn.Module, example_input: Any) -> None:
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._network: nn.Module | None = None
        self._example = None
        try:
            own = [*model.parameters(), *model.buffers()]
            self._network = copy.deepcopy(model, {id(tensor): self._fake.from_tensor(tensor) for tensor in own})
            self._example = tree_map_only(Tensor, self._without_values, example_input)
            with self._fake:
                self.outputs, self.flops = self._forward(self._network, self._example)
        except Exception:  # networks that look at values, or cannot be copied, run for once
            self._network = None
            try:
                self.outputs, self.flops = self._forward(model, example_input)
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                given = _described(example_input)
                raise ValueError(f"{type(model).__name__} does not run on an input of {given}: {reason}") from error
        self.memory_without = self._memory_without()

    @property
    def whole(self) -> bool:
        """Whether memory is counted in the network's own training step, not of each block by itself."""
        return self._network is not None

    def block(self, name: str, output: Output, options: Mapping[str, Any]) -> NonLocal:
        """The block that `insert` would put behind an output, without values and not inserted."""
        with self._fake:
            return make_block(name, output, dict(options)).train()

    def sizes(self, name: str, block: NonLocal) -> tuple[int, int, int, int, int]:
        """Of the operation at a place: (B', N, M, D, V), B' the batch times the groups that see each other.

        Raises:
            ValueError: the map is too small for the block's pooling.
        """
        with self._fake, torch.no_grad():
            x = self._map(name)
            block._check_input(x)
            theta_BND, phi_BMD, g_BMV = block.embed(x)
        return theta_BND.shape[0], theta_BND.shape[1], phi_BMD.shape[1], phi_BMD.shape[2], g_BMV.shape[2]

    def block_flops(self, name: str, block: NonLocal) -> int:
        """Of the block's forward pass."""
        with self._fake, torch.no_grad():
            return _flops(lambda: block(self._map(name)))

    def memory_added(self, blocks: Mapping[str, NonLocal]) -> int:
        """Bytes that a training step (forward and backward) needs at its peak more than without the blocks.

        Parameters are not counted, their gradients are where they are alive at the peak.

        Args:
            blocks: by the name of the module they follow.
        """
        if self._network is None:
            return sum(self._memory_alone(name, block) for name, block in blocks.items())
        for name, block in blocks.items():
            attach(self._network.get_submodule(name), block)
        try:
            return self._training_peak() - self.memory_without
        finally:
            for name in blocks:
                remove(self._network, at=name)

    def _without_values(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self._fake.from_tensor(tensor)

    def _map(self, name: str) -> Tensor:
        return torch.empty_like(self.outputs[name][0])

    def _forward(self, model: nn.Module, example_input: Any) -> tuple[dict[str, list[Any]], int]:
        def keep(output: Any) -> Any:
            return tree_map_only(Tensor, self._without_values, output)

        with capture_outputs(dict(model.named_modules()), keep) as seen:
            return seen, _flops(lambda: outputs_by_run(model, {}, example_input))

    def _memory_without(self) -> int:
        if self._network is None:
            return 0
        try:
            self._network.train()
            return self._training_peak()
        except Exception:  # one value a channel for a batch norm, say: the example runs in eval mode only
            self._network = None
            return 0

    def _training_peak(self) -> int:
        network, example = self._network, self._example
        assert network is not None
        network.zero_grad(set_to_none=True)

        def step() -> None:
            with capture_outputs({"": network}) as seen:
                call(network, example)
            loss = sum(one.sum() for one in tree_leaves(seen[""]) if isinstance(one, Tensor) and one.requires_grad)
            if isinstance(loss, Tensor):
                loss.backward()

        peak = self._peak(step)
        network.zero_grad(set_to_none=True)
        return peak

    def _memory_alone(self, name: str, block: NonLocal) -> int:
        with self._fake:
            x = self._map(name).requires_grad_()
        peak = self._peak(lambda: block(x).sum().backward())
        block.zero_grad(set_to_none=True)
        return peak

    def _peak(self, work: Callable[[], Any]) -> int:
        live = _LiveBytes()
        with self._fake, live, torch.enable_grad():
            work()
        return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, for as long as something holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for one in tree_leaves((args, kwargs)):
            self._see(one, counted=False)  # made before: a parameter or the input
        if func.namespace == _OUR_OPERATORS:
            with self, torch.no_grad():  # into the kernel, whose buffers count too
                result = func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
        else:
            result = func(*args, **kwargs)
        for one in tree_leaves(result):
            self._see(one, counted=True)
        if func in _CONVOLUTIONS:
            self.peak = max(self.peak, self.live + _copies(args, result))
        return result

    def _see(self, one: Any, *, counted: bool) -> None:
        if not isinstance(one, Tensor):
            return
        storage = one.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counted else 0
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def as_dense(blocks: Iterable[NonLocal]) -> Iterator[None]:
    """Inside, the blocks follow the definition and build the N x M map."""
    before: list[tuple[NonLocal, Algorithm]] = [(block, block.algorithm) for block in blocks]
    for block, _ in before:
        block.algorithm = "dense"
    try:
        yield
    finally:
        for block, algorithm in before:
            block.algorithm = algorithm


def _copies(args: Any, result: Any) -> int:
    """PyTorch's convolutions on the CPU copy their maps into a blocked layout, and out of it, while they run."""
    maps = [one for one in tree_leaves((args, result)) if isinstance(one, Tensor) and one.device.type == "cpu"]
    return sum(one.untyped_storage().nbytes() for one in maps)


def _flops(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _described(example_input: Any) -> str:
    tensors = [one for one in tree_leaves(example_input) if isinstance(one, Tensor)]
    return ", ".join("x".join(map(str, one.shape)) for one in tensors) or type(example_input).__name__
