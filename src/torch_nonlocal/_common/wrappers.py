"""Networks seen through the wrappers of other tools: data parallelism, compilation, checkpointing, adapters, averages.

A wrapper is a module that runs another module in its place. It adds a segment to the names of the modules inside it
("module.layer3.1", "layer3.1._checkpoint_wrapped_module"). The functions here skip wrappers, around a network and
inside it, and leave their segments out of names.

Wrappers are recognized by class, so a network's own child named `module` or `model` keeps its name, and no package is
imported for the comparison.
"""

from collections.abc import Iterator

import torch
from torch import nn

# The attribute that holds the wrapped module, by top-level package and name of the wrapper's class or of a base class.
_ATTRIBUTES = {
    ("torch", "DataParallel"): "module",
    ("torch", "DistributedDataParallel"): "module",
    ("torch", "OptimizedModule"): "_orig_mod",  # torch.compile
    ("torch", "FullyShardedDataParallel"): "_fsdp_wrapped_module",
    ("torch", "ActivationWrapper"): "_checkpoint_wrapped_module",  # base of CheckpointWrapper and OffloadWrapper
    ("torch", "AveragedModel"): "module",
    ("torch", "QuantWrapper"): "module",
    ("timm", "ModelEmaV2"): "module",
    ("timm", "ModelEmaV3"): "module",
    ("peft", "PeftModel"): "base_model",
    ("peft", "PeftMixedModel"): "base_model",
    ("peft", "BaseTuner"): "model",  # LoraModel and its like
    ("opacus", "AbstractGradSampleModule"): "_module",
    ("opacus", "DifferentiallyPrivateDistributedDataParallel"): "module",
    ("mmengine", "BaseAveragedModel"): "module",
    ("lightning", "_FabricModule"): "_forward_module",
    ("lightning_fabric", "_FabricModule"): "_forward_module",
    ("deepspeed", "DeepSpeedEngine"): "module",
}
_WITH_COPIES = ("peft", "AuxiliaryTrainingWrapper")  # base of ModulesToSaveWrapper
_SYNCHRONIZERS = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"}
# Segments that no network uses for a module of its own.
SEGMENTS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside any number of wrappers: the one that runs. A module without a wrapper is returned."""
    while inner := _inner(module):
        module = inner[0]
    return module


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a network by name, each once under its first name, without wrappers.

    Args:
        model: a network, with or without wrappers around it and inside it.
    """
    known: set[int] = set()
    named: dict[str, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> None:
        module = unwrapped(module)
        if id(module) not in known:
            known.add(id(module))
            named[name] = module
            for child, inside in _children(module):
                visit(join(name, child), inside)

    visit("", model)
    return named


def all_names(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every name of every module, without wrappers. A module that is registered twice has two names."""
    return _paths("", model, through=True)


def names_with_wrappers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every name as PyTorch gives it, with the segments of wrappers, and the module inside the wrappers there."""
    return ((name, unwrapped(module)) for name, module in _paths("", model, through=False))


def named_copies(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules as `named_modules` does, and under the same names the copies that adapters hold in reserve."""
    return _copies("", model, set())


def named_children(module: nn.Module) -> dict[str, nn.Module]:
    """Return the children of a module by name, without wrappers."""
    return {name: unwrapped(child) for name, child in _children(unwrapped(module))}


def synchronizer(model: nn.Module) -> str | None:
    """Return the name of the wrapper that exchanges gradients between processes, or None with one process.

    Such a wrapper knows the parameters that the network had when it was wrapped.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    if torch.distributed.get_world_size() == 1:
        return None
    return next((name for module in model.modules() for _, name in _kinds(module) if name in _SYNCHRONIZERS), None)


def join(parent: str, child: str) -> str:
    """Return the name of a child; the network itself is ""."""
    return f"{parent}.{child}" if parent else child


def is_a(module: nn.Module, package: str, name: str) -> bool:
    """Return whether a module's class or a base class has this name and comes from this top-level package."""
    return (package, name) in _kinds(module)


def _paths(
    name: str, module: nn.Module, *, through: bool, around: tuple[int, ...] = ()
) -> Iterator[tuple[str, nn.Module]]:
    module = unwrapped(module) if through else module
    if id(module) in around:  # a module inside itself
        return
    yield name, module
    for child, inside in _children(module):
        yield from _paths(join(name, child), inside, through=through, around=(*around, id(module)))


def _copies(name: str, module: nn.Module, known: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if id(module) in known:
        return
    known.add(id(module))
    inner = _inner(module)
    if inner:
        for one in inner:
            yield from _copies(name, one, known)
        return
    yield name, module
    for child, inside in _children(module):
        yield from _copies(join(name, child), inside, known)


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _kinds(module: nn.Module) -> list[tuple[str, str]]:
    return [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(module).__mro__]


def _inner(module: nn.Module) -> list[nn.Module]:
    """The wrapped module, followed by the copies of it that do not run now. Empty for a module without a wrapper."""
    for kind in _kinds(module):
        if kind == _WITH_COPIES:
            return _adapted(module)
        inner = module._modules.get(_ATTRIBUTES[kind]) if kind in _ATTRIBUTES else None
        if inner is not None:
            return [inner]
    return []


def _adapted(module: nn.Module) -> list[nn.Module]:
    """The copy of the active adapter, or the original where none is active, followed by the others."""
    original, copies = module._modules["original_module"], module._modules.get("modules_to_save")
    assert original is not None
    by_adapter = dict(_children(copies)) if copies is not None else {}
    active = [] if module.disable_adapters else [by_adapter[key] for key in module.active_adapters if key in by_adapter]  # pyright: ignore[reportGeneralTypeIssues]
    runs = active[0] if active else original
    return [runs, *(one for one in (original, *by_adapter.values()) if one is not runs)]
