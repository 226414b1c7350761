"""`replace` and `restore`: the attention of other projects, exact and without its map, in place."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from torch_nonlocal._common.text import listed
from torch_nonlocal._common.wrappers import all_names, join, named_modules
from torch_nonlocal.insertion.attachment import plain_type
from torch_nonlocal.insertion.targets import Names, Places
from torch_nonlocal.layers import Block
from torch_nonlocal.replacing.check import Checked, Trial
from torch_nonlocal.replacing.cost import costs
from torch_nonlocal.replacing.families import FAMILIES
from torch_nonlocal.replacing.families.without_map import WITHOUT_MAP
from torch_nonlocal.replacing.family import Family
from torch_nonlocal.replacing.report import Found, Replacement
from torch_nonlocal.replacing.swap import family_of, give_back, original_type, take_over, taken_over_type

Model = TypeVar("Model", bound=nn.Module)
_RESEMBLING = re.compile(r"non_?local|nl_?block|^nl(_?[123]d)?$|nl$", re.IGNORECASE)  # names that copies have


def replace(
    model: nn.Module, only: Places | None = None, *, dry_run: bool = False, example_input: Any = None
) -> Replacement:
    """Let the non-local operations of other projects in a network compute through this package, in place.

    A module is replaced if its class name and its structure are those of a known family, and if its output and its
    gradients on random values agree with the family's to 1e-5. The module keeps its class for isinstance, its
    parameters (the same objects), state_dict keys, buffers, hooks, dtype, device and mode: optimizers, checkpoints and
    DistributedDataParallel work as before. Its N x M map is no longer built. `nl.watch` and `nl.explain` work on it.

    Args:
        model: any network; changed in place.
        only: names, globs or modules, as for `nl.insert`, or names of families. A container, such as a Sequential,
            stands for the modules inside. A module that is named replaces its own code even if that builds no map. None
            considers all modules, and leaves those without a map alone.
        dry_run: report only; the model is not changed.
        example_input: an input of the model, as for `nl.insert`. With it, the report has the positions, memory and time
            of each place.

    Returns:
        The report: `replaced`, `left` with reasons, and a table when printed.

    Raises:
        TypeError: if `only` is of another type.
        ValueError: if the model has no module of a known family, or nothing matches `only`.

    Example:
        >>> report = nl.replace(model, example_input=torch.randn(1, 3, 8, 64, 64))
        >>> print(report)
    """
    modules = named_modules(model)
    selected = _selected(model, only)
    around = _Around(model)
    found: dict[str, Found] = {}
    left: dict[str, str] = {}
    for name, module in modules.items():
        families, asked = selected.families_for(name), name in selected.places
        if not families:
            continue
        if any(name != outer and name.startswith(join(outer, "")) for outer in found):
            continue  # a part of a module that is replaced as a whole
        if family_of(module) is not None:
            left[name] = "it was replaced before; nl.restore gives its own code back"
            continue
        if type(module).__name__ in WITHOUT_MAP:
            left[name] = WITHOUT_MAP[type(module).__name__]
            continue
        alike = _alike(module, families)
        if not alike:
            if name in selected.named:
                left[name] = f"{type(module).__name__} is {_unknown(module)}"
            continue
        reason = around.reason(module) or _decided(module, alike, found, name, asked=asked)
        if reason is not None:
            left[name] = reason
    if not found and not left:
        raise ValueError(_none_found(model, selected))
    described = found if example_input is None else costs(model, found, example_input)
    if not dry_run:
        for name in found:
            take_over(modules[name], FAMILIES[found[name].family])
    return Replacement(tuple(described.values()), left, dry_run)


def restore(model: Model) -> Model:
    """Give all replaced modules their own code back, with the weights as they are now.

    Args:
        model: a network; changed in place.

    Returns:
        The same model.
    """
    for module in named_modules(model).values():
        if family_of(module) is not None:
            give_back(module)
    return model


@dataclass(frozen=True)
class _Selected:
    """What `only` selects.

    Attributes:
        families: the families that are considered outside the places.
        places: names of the modules that are considered for every family.
        named: those of them that are not named by a glob or a container.
    """

    families: list[Family]
    places: set[str]
    named: set[str]

    def families_for(self, name: str) -> list[Family]:
        """Return the families that a module is compared with."""
        return list(FAMILIES.values()) if name in self.places else self.families


def _selected(model: nn.Module, only: Places | None) -> _Selected:
    if only is None:
        return _Selected(list(FAMILIES.values()), set(), set())
    if not isinstance(only, str | nn.Module | Iterable):
        raise TypeError(f"only: expected names, globs, modules or names of families, got {type(only).__name__}")
    given = [only] if isinstance(only, str | nn.Module) else list(only)
    names = {one for one in given if isinstance(one, str) and any(_is_of(family, one) for family in FAMILIES.values())}
    known = Names(model)
    first = {module: name for name, module in known.first.items()}
    places: set[str] = set()
    named: set[str] = set()
    for one in given:
        if isinstance(one, str) and one in names:
            continue
        for name, module in known.matches(one):
            places.add(first[module])
            if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
                places |= {inner for inner in known.first if inner.startswith(join(name, ""))}
            elif isinstance(one, nn.Module) or one in known.places:
                named.add(first[module])
    if not given:
        raise ValueError("only is empty: expected at least one name, glob, module or name of a family")
    return _Selected(
        [family for family in FAMILIES.values() if any(_is_of(family, one) for one in names)], places, named
    )


def _is_of(family: Family, name: str) -> bool:
    return f"{family.name}.".startswith(f"{name}.")


def _alike(module: nn.Module, families: Iterable[Family]) -> list[Family]:
    """The families that name the class of a module, then those that have its structure if its name resembles one."""
    if isinstance(module, Block):
        return []  # a block of this package, whose class has the name of others
    names = _class_names(module)
    named = [family for family in families if names & set(family.class_names)]
    if isinstance(module, torch.jit.ScriptModule) or not any(_RESEMBLING.search(name) for name in names):
        return named
    return named + [one for one in families if one not in named and one.mismatch(module) is None]


def _unknown(module: nn.Module) -> str:
    return "a block of this package" if isinstance(module, Block) else "no class of a known family"


def _class_names(module: nn.Module) -> set[str]:
    if isinstance(module, torch.jit.ScriptModule):
        return {getattr(module, "original_name", "")}
    return {kind.__name__ for kind in original_type(module).__mro__}


def _decided(
    module: nn.Module, alike: Iterable[Family], found: dict[str, Found], name: str, *, asked: bool
) -> str | None:
    """Add a module to those found, or return why it is left."""
    try:
        trial = Trial(module)
    except ValueError as error:
        return str(error)
    reasons: dict[str, str] = {}
    nearest: Checked | None = None
    for family in alike:
        reason = family.mismatch(module)
        if reason is not None:
            reasons.setdefault(family.project, f"not as in {family.project}: {reason}")
            continue
        result = trial.check(family)
        if result.passed and not asked and not trial.builds_map(family):
            return "its own code builds no N x M map; name it in only= to replace it all the same"
        if result.passed:
            try:
                taken_over_type(plain_type(module), family)
            except Exception as error:  # a metaclass or a registry of others
                return f"its class cannot be extended: {error}"
            found[name] = Found(name, type(module).__name__, family.name, family.project, family.computed(module))
            return None
        if result.failure is not None:
            return f"its own code does not run on a random map: {result.failure}"
        if nearest is None or result.error < nearest.error:
            nearest = result
    if nearest is not None:
        return f"it computes something else: {nearest.where} differs by {nearest.error:.1g} of its largest value"
    return "; ".join(reasons.values())


class _Around:
    """What surrounds the modules of a network: their names, compilation and sharding."""

    def __init__(self, model: nn.Module) -> None:
        self._names: dict[nn.Module, list[str]] = {}
        for name, module in all_names(model):
            self._names.setdefault(module, []).append(name)
        compiled = {
            name: module
            for name, module in model.named_modules()
            if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        }
        self._compiled = {inner: name for name, module in compiled.items() for inner in module.modules()}
        flat = {name: module for name, module in model.named_modules() if hasattr(module, "_fsdp_wrapped_module")}
        self._flat = {inner: name for name, module in flat.items() for inner in module.modules()}

    def reason(self, module: nn.Module) -> str | None:
        """Return why a module cannot be replaced whatever its family is."""
        if isinstance(module, torch.jit.ScriptModule):
            return "it is TorchScript code"
        if len(self._names[module]) > 1:
            return f"it is shared: {listed(self._names[module])} are one module"
        if "forward" in vars(module):
            return "its forward was replaced on the instance"
        if is_parametrized(module):
            return "it is parametrized itself"
        if module in self._compiled:
            around = self._compiled[module] or "the whole network"
            return f"it runs under torch.compile ({around}): replace first, then compile"
        if module in self._flat:
            around = self._flat[module] or "the whole network"
            return f"its parameters are part of a FullyShardedDataParallel ({around}): replace first, then wrap"
        return _quantized(module)


def _quantized(module: nn.Module) -> str | None:
    for name, one in module.named_modules():
        kind = type(one)
        if "quantiz" in kind.__module__ or kind.__module__.startswith("bitsandbytes"):
            return f"it is quantized: {name or 'it'} is a {kind.__name__}"
    for name, parameter in [*module.named_parameters(), *module.named_buffers()]:
        data = type(parameter.data).__name__
        if not parameter.is_floating_point() and name.rpartition(".")[2] in ("weight", "bias"):
            return f"it is quantized: {name} is {parameter.dtype}"
        if data not in ("Tensor", "Parameter", "FakeTensor", "DTensor"):
            return f"its {name} is a {data}"
    return None


def _none_found(model: nn.Module, selected: _Selected) -> str:
    projects: dict[str, list[str]] = {}
    for family in selected.families or FAMILIES.values():
        names = projects.setdefault(family.project, [])
        names += [name for name in family.class_names if name not in names]
    looked = "; ".join(f"{', '.join(names)} ({project})" for project, names in projects.items())
    where = "none of the modules that only= selects is an" if selected.places else f"{type(model).__name__} has no"
    return (
        f"{where} attention module of a known project; looked for classes named {looked}. To add "
        "blocks of this package, use nl.insert"
    )
