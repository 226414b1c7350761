"""How a block is attached to the module it follows, its host.

The block is a child module of the host, named `non_local`, and a forward hook of the host applies it. Nothing is
wrapped, so the network keeps its state_dict keys. A hook alone is not enough:

- torch.compile has no guards on hooks. Code that was compiled for a network without a block would be reused for a
  network with one, and the block would be skipped.
- Tools that fuse or swap layers select them by their exact type, and copy hooks or children but not both.

Therefore the class of a host is a generated subclass of its class. isinstance checks, the name of the class, pickle and
deepcopy work as before; guards and checks of the exact type see a different type.

- Tools that select by isinstance build a new module. Some add the children of the old one to it (the conversion to
  SyncBatchNorm), some do not (frozen batch norms), some wrap the old one (LoRA). A hook on the registration of child
  modules attaches an inserted block to the module that it is moved to, and moves it to the module that replaces its
  host.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.utils.parametrize import is_parametrized

from torch_nonlocal._common.generated_classes import generated_subclass, reduced_by_base
from torch_nonlocal.layers import Block

CHILD = "non_local"
_BATCH_NORMS = nn.modules.batchnorm._BatchNorm
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_MERGE_METHODS = ("reparameterize", "switch_to_deploy")  # of timm's and of the authors' RepVGG, MobileOne, FastViT
_GENERATED = "_torch_nonlocal_host_of"


def apply_non_local(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """Forward hook of a host: apply the block to the host's output."""
    return module._modules[CHILD](output)  # pyright: ignore[reportOptionalCall]


def attach(module: nn.Module, block: Block) -> None:
    """Insert a block after a module. The block takes the module's training or eval mode."""
    block.inserted = True
    _follow_moved_blocks()
    _add_child(module, block.train(module.training))


def _add_child(module: nn.Module, block: nn.Module | None) -> None:
    """Register a block and make the module its host.

    The residual blocks of mmaction2 have a plain attribute `non_local`, for which `add_module` raises an error.
    """
    if CHILD in module._modules or not hasattr(module, CHILD):
        module.add_module(CHILD, block)
        return
    module._modules[CHILD] = block
    _make_host(module)


def detach(module: nn.Module) -> None:
    """Remove the block of a host. The module is as before `attach`."""
    # register_forward_hook records a hook in these dictionaries. A handle would not survive deepcopy or pickle.
    for key in _hook_keys(module):
        del module._forward_hooks[key]
        module._forward_hooks_with_kwargs.pop(key, None)
        module._forward_hooks_always_called.pop(key, None)
    del module._modules[CHILD]
    module.__class__ = _plain_class(type(module))


def is_attached(module: nn.Module) -> bool:
    """Return whether a module applies the child `non_local` to its output."""
    return CHILD in module._modules and bool(_hook_keys(module))


def plain_type(module: nn.Module) -> type[nn.Module]:
    """Return the class of a module, without the subclass that is generated for hosts."""
    return _plain_class(type(module))


def change_plain_type(module: nn.Module, kind: type[nn.Module]) -> None:
    """Give a module another class; a host of a block stays one."""
    is_host = hasattr(type(module), _GENERATED)
    module.__class__ = _host_class(kind) if is_host else kind


def is_fusable(parent: nn.Module, child: str) -> bool:
    """Return whether tools may fuse or replace a child by isinstance: a batch norm, or a convolution before one."""
    names = list(parent._modules)
    after = names[names.index(child) + 1 :][:1]
    if isinstance(parent._modules[child], _CONVS):
        return any(isinstance(parent._modules[name], _BATCH_NORMS) for name in after)
    return isinstance(parent._modules[child], _BATCH_NORMS)


def reparameterized(modules: Mapping[str, nn.Module], name: str) -> str | None:
    """Return the outermost module around a place, not the network, that can merge its layers into one convolution."""
    parts = name.split(".")
    around = (".".join(parts[:count]) for count in range(1, len(parts)))
    known = [one for one in around if one in modules]
    return next((one for one in known if any(hasattr(type(modules[one]), method) for method in _MERGE_METHODS)), None)


def nearest_container(modules: Mapping[str, nn.Module], name: str) -> str | None:
    """Return the innermost module around a place that blocks can follow: no Sequential or list, not the network."""
    while name and isinstance(modules[name], nn.Sequential | nn.ModuleList | nn.ModuleDict):
        name = name.rpartition(".")[0]
    return name or None


def new_host(make: Callable[..., nn.Module], args: tuple[Any, ...]) -> nn.Module:
    """Create an uninitialized host, for unpickling and deepcopy.

    Args:
        make: function that creates a module of the host's own class.
        args: its arguments.
    """
    _follow_moved_blocks()
    host = make(*args)
    host.__class__ = _host_class(type(host))
    return host


def _reduce_host(host: nn.Module, protocol: Any) -> Any:
    """`__reduce_ex__` of the generated classes: pickle by the host's own class, since they cannot be imported."""
    return reduced_by_base(host, _plain_class(type(host)), new_host, protocol)


_host_classes: "weakref.WeakKeyDictionary[type, weakref.ref[type]]" = weakref.WeakKeyDictionary()


def _host_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The generated subclass of a class, one for each; the class itself if it is one."""
    if hasattr(kind, _GENERATED):
        return kind
    known = _host_classes.get(kind)
    host = known() if known is not None else None
    if host is None:
        host = generated_subclass(kind, CHILD, {"__reduce_ex__": _reduce_host, _GENERATED: True})
        _host_classes[kind] = weakref.ref(host)
    return host


def _plain_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class that a generated one was made from."""
    if _GENERATED in kind.__dict__:
        return kind.__bases__[0]
    if _GENERATED in kind.__bases__[0].__dict__:  # parametrized
        return _with_base(kind, kind.__bases__[0].__bases__[0])
    return kind


def _with_base(kind: type[nn.Module], base: type[nn.Module]) -> type[nn.Module]:
    """A copy of a class of parametrize with another base. Its properties belong to one module."""
    contents = {key: value for key, value in kind.__dict__.items() if key not in ("__dict__", "__weakref__")}
    return type(kind)(kind.__name__, (base,), contents)  # pyright: ignore[reportCallIssue]


def _make_host(module: nn.Module) -> None:
    """Give a module the generated class and the hook."""
    kind = type(module)
    if is_parametrized(module) and not hasattr(kind, _GENERATED):
        module.__class__ = _with_base(kind, _host_class(kind.__bases__[0]))
    else:
        module.__class__ = _host_class(kind)
    if not _hook_keys(module):
        module.register_forward_hook(apply_non_local)


def _hook_keys(module: nn.Module) -> list[int]:
    """The keys under which PyTorch keeps the hook of a block, one or none."""
    return [key for key, hook in module._forward_hooks.items() if hook is apply_non_local]


_following = False


def _follow_moved_blocks() -> None:
    global _following
    if not _following:
        _following = True
        register_module_module_registration_hook(_attach_moved)


def _attach_moved(module: nn.Module, name: str, child: Any) -> None:
    """Registration hook: called before `child` is registered as `module.name`."""
    if name == CHILD and isinstance(child, Block) and child.inserted:
        _make_host(module)
        return
    if name not in module._modules:
        return
    old = module._modules[name]
    if old is not None and is_attached(old) and isinstance(child, nn.Module) and _replaces(child, old, module):
        block = old._modules[CHILD]
        detach(old)
        _add_child(child, block)  # not `attach`: the block keeps its mode


def _replaces(new: nn.Module, old: nn.Module, parent: nn.Module) -> bool:
    """Return whether a new module does the work of a host, so that the block must follow it.

    A wrapper that contains the host runs the block inside. A wrapper of an adapter (`base_layer` in peft) adds to the
    host's output, and the block must follow the sum.
    """
    if isinstance(new, nn.Identity) or CHILD in new._modules or any(one is new for one in parent._modules.values()):
        return False
    return new._modules.get("base_layer") is old or all(one is not old for one in new.modules())
