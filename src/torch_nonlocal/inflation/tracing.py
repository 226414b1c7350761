"""Detects by tracing whether a module's own code is for images (B, C, H, W) only or also valid for clips."""

import inspect
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

# Elementwise, or along the channels or the last axis only: valid for any number of axes.
_ANY_AXES = (
    *(nn.Identity, nn.Linear, nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.SyncBatchNorm),
    *(nn.Threshold, nn.ReLU, nn.RReLU, nn.Hardtanh, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.Hardshrink, nn.LeakyReLU, nn.LogSigmoid, nn.Softplus),
    *(nn.Softshrink, nn.PReLU, nn.Softsign, nn.Tanhshrink),
)
# One random draw per sample: it must be per clip, not per frame.
_ANY_AXES_BY_NAME = {("torchvision.ops.stochastic_depth", "StochasticDepth"), ("timm.layers.drop", "DropPath")}
_LAST_AXIS = tuple(kind for kind in (nn.LayerNorm, getattr(nn, "RMSNorm", None)) if kind is not None)

_FUNCTIONS = {
    *(operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv),
    *(operator.neg, operator.eq, torch.add, torch.sub, torch.mul, torch.div, torch.relu, torch.sigmoid, torch.tanh),
    *(torch.maximum, torch.minimum, torch._assert),
    *(F.relu, F.relu_, F.relu6, F.silu, F.gelu, F.elu, F.selu, F.mish, F.hardswish, F.hardsigmoid, F.sigmoid, F.tanh),
    *(F.leaky_relu, F.softplus, F.dropout),
}
_METHODS = {"add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "relu", "relu_", "sigmoid", "tanh"}
_METHODS |= {"clone", "contiguous"}


def has_own_forward(module: nn.Module) -> bool:
    """Return False for lists and dicts of modules, which have no forward."""
    return getattr(type(module).forward, "__name__", "") != "_forward_unimplemented"


def takes_any_axes(module: nn.Module) -> bool:
    """Return True if the module's own code, without that of its children, treats clips as it treats images.

    The code is traced with the children as leaves, in training and in eval mode. Code that cannot be traced is treated
    as image code, which is always correct.
    """
    kind = type(module)
    if _is_of_torch(module) and kind is not nn.Sequential:
        if kind in _LAST_AXIS:
            return len(module.normalized_shape) == 1  # pyright: ignore[reportArgumentType]
        return kind in _ANY_AXES
    if (kind.__module__, kind.__name__) in _ANY_AXES_BY_NAME or kind.forward is nn.Sequential.forward:
        return True
    graphs = [_own_graph(module, training) for training in (True, False)]
    return all(graph is not None and _is_for_any_axes(graph, module) for graph in graphs)


def pools_before_scores(module: nn.Module) -> set[nn.Module]:
    """Return the children that pool a map which the module's own code then flattens to (B, K)."""
    if _is_of_torch(module) or not has_own_forward(module):
        return set()
    graph = _own_graph(module, training=False)
    nodes: list[Any] = _flattened(graph, module) if graph else []
    return {module.get_submodule(str(node.args[0].target)) for node in nodes}


def _is_of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules")


class _OwnCode(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _own_graph(module: nn.Module, training: bool) -> fx.Graph | None:
    parameters = inspect.signature(module.forward).parameters.values()
    plain = (type(None), bool, int, float, str)
    defaults = {parameter.name: parameter.default for parameter in parameters if type(parameter.default) in plain}
    with _mode(module, training), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _OwnCode().trace(module, defaults or None)
        except Exception:  # code that was not written for proxies can raise anything
            return None


@contextmanager
def _mode(module: nn.Module, training: bool) -> Iterator[None]:
    before = module.training
    module.training = training
    try:
        yield
    finally:
        module.training = before


def _is_for_any_axes(graph: fx.Graph, module: nn.Module) -> bool:
    flattened = _flattened(graph, module)
    return all(_node_is_for_any_axes(node) or node in flattened for node in graph.nodes)


def _node_is_for_any_axes(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output", "call_module"):
        return True
    if node.op == "call_method":
        return node.target in _METHODS
    if node.op != "call_function":  # a parameter, whose shape may depend on the number of axes
        return False
    if node.target in (torch.cat, torch.concat):
        return _argument(node, 1, "dim", 0) == 1
    return node.target in _FUNCTIONS or getattr(node.target, "__name__", "") == "_assert_is_none"


def _flattened(graph: fx.Graph, module: nn.Module) -> list[fx.Node]:
    """Return the nodes that flatten the output of an average pool with no other user: these can pool time as well."""
    calls: dict[Any, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    found = []
    for node in graph.nodes:
        is_flatten = node.target is torch.flatten or (node.op == "call_method" and node.target == "flatten")
        if not is_flatten or _argument(node, 1, "start_dim", 0) != 1 or _argument(node, 2, "end_dim", -1) != -1:
            continue
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        if calls[source.target] == 1 and type(module.get_submodule(str(source.target))) is nn.AdaptiveAvgPool2d:
            found.append(node)
    return found


def _argument(node: Any, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
