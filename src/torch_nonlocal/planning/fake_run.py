"""Shapes, FLOPs and memory of a training step of a network on an input, without computing values.

A copy of the network with fake tensors (shape, strides and device, but no values) runs forward and backward through
the operations of a real run, quickly and in very little memory. The bytes of tensors are counted as they are allocated
and freed, including those inside the kernels of this library's operators.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from torch_nonlocal._common.capture import capture_outputs
from torch_nonlocal._common.text import reason_of
from torch_nonlocal._common.wrappers import named_modules
from torch_nonlocal.functional import Algorithm
from torch_nonlocal.insertion.attachment import attach
from torch_nonlocal.insertion.insert import make_block, remove
from torch_nonlocal.insertion.probe import Output, Probe, call
from torch_nonlocal.layers import Block
from torch_nonlocal.layers.options import AnyBlockOptions
from torch_nonlocal.layers.registry import Kind

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
_OUR_OPERATORS = "torch_nonlocal"


class Rehearsal:
    """A run of a network on an input with fake tensors.

    The network itself is unchanged. It runs on the input, once, only if a copy cannot run with fake tensors.

    Attributes:
        outputs: outputs of every module by name, a list with one item per run; tensors are fake.
        flops: FLOPs of the network's forward pass by PyTorch's counter, two per multiply-add.
        memory_without: peak memory in bytes of a training step without blocks, excluding parameters and input; 0 if
            `whole` is False.

    Args:
        model: any network.
        example_input: an input of the model, as for `insert`.

    Raises:
        ValueError: if the network does not run on this input. The message includes the network's own error.
    """

    def __init__(self, model: nn.Module, example_input: Any) -> None:
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._network: nn.Module | None = None
        self._example = None
        try:
            self._network = fake_copy(model, self._fake)
            self._example = tree_map_only(Tensor, self._without_values, example_input)
            with self._fake:
                self._probe, self.flops = self._forward(self._network, self._example)
            self._mode: AbstractContextManager[Any] = self._fake
        except Exception:  # a network that depends on values, or cannot be copied, runs itself
            self._network = None
            try:
                self._probe, self.flops = self._forward(model, example_input)
                self._mode = nullcontext()
            except Exception as error:
                given = _shapes(example_input)
                raise ValueError(
                    f"{type(model).__name__} does not run on an input of {given}: {reason_of(error)}"
                ) from error
        self.outputs = self._probe.outputs
        self.memory_without = self._memory_without()

    @property
    def input_size(self) -> tuple[int, ...] | None:
        """Size of the map that the first convolution takes: that of the network's input after its own resizing."""
        return self._probe.axes.input_size

    @property
    def returns_scores(self) -> bool:
        """Whether the network returns one tensor (B, K)."""
        return all(isinstance(one, Tensor) and one.ndim == 2 for one in self.outputs[""])

    @property
    def whole(self) -> bool:
        """Whether memory is counted in the network's training step. False: separately for each block."""
        return self._network is not None

    def output(self, name: str, options: AnyBlockOptions) -> Output:
        """Describe the output of a place, as `Probe.output`."""
        with self._mode:
            return self._probe.output(name, options)

    def block(self, kind: Kind, name: str, output: Output, options: AnyBlockOptions) -> Block:
        """Build the block that `insert` would insert at a place, with fake tensors and without inserting it."""
        trains = self.outputs[name][0].numel() > output.channels  # a batch norm cannot train on one value per channel
        with self._fake:
            return make_block(kind, name, output, options).train(trains)

    def block_flops(self, name: str, block: Block) -> int:
        """Return the FLOPs of the block's forward pass."""
        with self._fake, torch.no_grad():
            return _flops(lambda: block(self._map(name)))

    def memory_added(self, blocks: Mapping[str, Block]) -> int:
        """Return the extra peak memory of a training step (forward and backward) with the blocks, in bytes.

        Parameters are not counted. Their gradients are counted if they are allocated at the peak.

        Args:
            blocks: blocks by the name of the module they follow.
        """
        if self._network is None:
            return sum(self._memory_alone(name, block) for name, block in blocks.items())
        modules = named_modules(self._network)
        for name, block in blocks.items():
            attach(modules[name], block)
        try:
            return self._training_peak() - self.memory_without
        finally:
            for name in blocks:
                remove(self._network, at=name)

    def _without_values(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self._fake.from_tensor(tensor)

    def _map(self, name: str) -> Tensor:
        return torch.empty_like(self.outputs[name][0])

    def _forward(self, model: nn.Module, example_input: Any) -> tuple[Probe, int]:
        def keep(output: Any) -> Any:
            return tree_map_only(Tensor, self._without_values, output)

        with FlopCounterMode(display=False) as counter:
            probe = Probe(model, named_modules(model), example_input, keep)
        return probe, counter.get_total_flops()

    def _memory_without(self) -> int:
        if self._network is None:
            return 0
        try:
            self._network.train()
            return self._training_peak()
        except Exception:  # the example runs in eval mode only, such as one value per channel in a batch norm
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

    def _memory_alone(self, name: str, block: Block) -> int:
        with self._fake:
            x = self._map(name).requires_grad_()
        peak = self._peak(lambda: block(x).sum().backward())
        block.zero_grad(set_to_none=True)
        return peak

    def _peak(self, work: Callable[[], Any]) -> int:
        live = LiveBytes()
        with self._fake, live, torch.enable_grad():
            work()
        return live.peak


def fake_copy(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Return a copy of a network whose tensors have no values."""
    own = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): mode.from_tensor(tensor) for tensor in own})


class LiveBytes(TorchDispatchMode):
    """Counts the live bytes of the tensors that operations allocate. Enter it inside a fake tensor mode.

    Attributes:
        live: bytes of the tensors that exist now.
        peak: the most bytes at one time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for one in tree_leaves((args, kwargs)):
            self._see(one, counted=False)  # allocated earlier: a parameter or the input
        if func.namespace == _OUR_OPERATORS:
            with self, torch.no_grad():  # enter the kernel to count its buffers
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
def as_dense(blocks: Iterable[Block]) -> Iterator[None]:
    """Inside the context, the blocks use algorithm="dense", which holds the N x M map."""
    before: list[tuple[Block, Algorithm]] = [(block, block.algorithm) for block in blocks]
    for block, _ in before:
        block.algorithm = "dense"
    try:
        yield
    finally:
        for block, algorithm in before:
            block.algorithm = algorithm


def _copies(args: Any, result: Any) -> int:
    """Return the bytes of the blocked-layout copies that PyTorch's CPU convolutions hold while they run."""
    maps = [one for one in tree_leaves((args, result)) if isinstance(one, Tensor) and one.device.type == "cpu"]
    return sum(one.untyped_storage().nbytes() for one in maps)


def _flops(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _shapes(example_input: Any) -> str:
    tensors = [one for one in tree_leaves(example_input) if isinstance(one, Tensor)]
    return ", ".join("x".join(map(str, one.shape)) for one in tensors) or type(example_input).__name__
