"""Taking a module apart: a copy without its tensors, and the plan to put others in."""

import copy
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from functional_train.models._checks import leaves_of
from functional_train.models._rebuild import Maker, find_makers
from functional_train.models._skeleton import Constant, Plan, Skeleton
from functional_train.values.errors import StructureError

__all__ = ["copy_module", "make_skeleton", "named_tensors"]

_CALL_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_STATE_DICT_HOOKS = (
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
# Calls may share these: they are looked up by hook ids, which are unique in the process, or play no part in a forward.
_SHARED = (
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs"),
    *("_non_persistent_buffers_set", *_STATE_DICT_HOOKS),
)
_BOUND = ("_parameters", "_buffers", "_modules", "training")


def named_tensors(module: nn.Module, kind: str) -> Iterator[tuple[str, Tensor]]:
    """Give every parameter (`kind="_parameters"`) or buffer (`"_buffers"`) once, with its first dotted name."""
    seen: set[int] = set()
    for path, submodule in module.named_modules():
        for attribute, tensor in getattr(submodule, kind).items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{path}.{attribute}" if path else attribute, tensor


class _DetachedCopies(TorchFunctionMode):
    # Old weight_norm leaves its last product on the module, and deepcopy refuses a tensor that has a graph.
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def copy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy a module deeply, its parameters and buffers replaced as `memo` says."""
    replaced = set(map(id, memo.values()))
    try:
        with _DetachedCopies():
            copied = copy.deepcopy(module, memo)
    except Exception as error:
        raise StructureError(
            f"{type(module).__name__} cannot be copied with copy.deepcopy: {error}. "
            "Take the attribute that refuses out of the module, or give its class a __deepcopy__."
        ) from error
    for kind in ("_parameters", "_buffers"):
        for name, tensor in named_tensors(copied, kind):
            if id(tensor) not in replaced:
                raise StructureError(f"{type(module).__name__} copies {name!r} without regard to the memo of deepcopy.")
    return copied


def make_skeleton(module: nn.Module) -> Skeleton:
    """Take the tensors out of a copy of `module` and plan how to put others in."""
    memo: dict[int, Any] = {}
    for hook_owner, name in _recomputed(module):
        memo[id(hook_owner.__dict__[name])] = torch.empty((), device="meta")
    for _, buffer in named_tensors(module, "_buffers"):
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device="meta")
    for _, parameter in named_tensors(module, "_parameters"):
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    copied = copy_module(module, memo)

    parameters, buffers = (dict(named_tensors(copied, kind)) for kind in ("_parameters", "_buffers"))
    tensor_index = {id(tensor): index for index, tensor in enumerate((*parameters.values(), *buffers.values()))}
    paths = {id(submodule): path for path, submodule in copied.named_modules()}
    submodules = list(_children_first(copied, set()))
    module_index = {id(submodule): index for index, submodule in enumerate(submodules)}
    members: dict[int, Maker] = {
        **{ident: _taker("tensors", index) for ident, index in tensor_index.items()},
        **{ident: _taker("modules", index) for ident, index in module_index.items()},
    }
    held = (value for submodule in submodules for value in _own_attributes(submodule).values())
    maker_of = find_makers(held, members, memo)
    made = tuple(
        (module_index[id(submodule)], name, maker)
        for submodule in submodules
        for name, value in _own_attributes(submodule).items()
        if (maker := maker_of(value))
    )
    made_names = [{name for index, name, _ in made if index == position} for position in range(len(submodules))]
    plans = tuple(
        _plan(submodule, paths[id(submodule)], tensor_index, module_index, names)
        for submodule, names in zip(submodules, made_names, strict=True)
    )
    return Skeleton(
        plans,
        made,
        leaves_of(parameters),
        leaves_of(buffers),
        tuple(
            (position, attribute, index - len(parameters))
            for position, plan in enumerate(plans)
            for attribute, index in plan.buffers
            if index >= 0
        ),
        tuple(
            Constant(f"{plan.path}.{name}".removeprefix("."), value, value._version)
            for plan in plans
            for name, value in plan.template.items()
            if isinstance(value, Tensor)
        ),
        tuple(dict(plan.parameters)["weight"] for plan in plans if _renormalizes(plan)),
        type(module).__name__,
    )


def _renormalizes(plan: Plan) -> bool:
    has_norm = plan.template.get("max_norm") is not None and "weight" in dict(plan.parameters)
    return has_norm and issubclass(plan.cls, (nn.Embedding, nn.EmbeddingBag))


def _recomputed(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for submodule in module.modules():
        for hook in submodule._forward_pre_hooks.values():
            if isinstance(hook, (WeightNorm, SpectralNorm)) and hook.name in submodule.__dict__:
                yield submodule, hook.name


def _children_first(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    seen.add(id(module))
    for child in module._modules.values():
        if child is not None and id(child) not in seen:
            yield from _children_first(child, seen)
    yield module


def _taker(field: str, index: int) -> Maker:
    return (lambda call: call.tensors[index]) if field == "tensors" else (lambda call: call.modules[index])


def _own_attributes(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in module.__dict__.items()
        if name not in (*_BOUND, *_SHARED) and (name not in _CALL_HOOKS or value) and not isinstance(value, fx.Graph)
    }


def _class_of(module: nn.Module) -> type[nn.Module]:
    if not parametrize.is_parametrized(module):
        return type(module)
    # The properties that torch makes hold the original module, weights and all, and inside parametrize.cached() they
    # look up by its id, so that one call would get what another has computed.
    cls: Any = type(module)
    names = tuple(cast(nn.Module, module._modules["parametrizations"])._modules)
    kept = {name: value for name, value in vars(cls).items() if name not in (*names, "__dict__", "__weakref__")}
    return type(cls.__name__, cls.__bases__, {**kept, **{name: _parametrized(name) for name in names}})


def _parametrized(name: str) -> property:
    return property(lambda module: module.parametrizations[name]())


def _plan(
    module: nn.Module,
    path: str,
    tensor_index: Mapping[int, int],
    module_index: Mapping[int, int],
    made: Collection[str],
) -> Plan:
    template = {
        name: None if name in (*_BOUND, *_CALL_HOOKS, *made) else module.__dict__[name] for name in module.__dict__
    }
    template["training"] = True
    # Hooks of state_dict never run in a forward, and their closures could keep the weights of the module alive.
    template |= {name: OrderedDict() for name in _STATE_DICT_HOOKS if name in template}
    return Plan(
        path,
        _class_of(module),
        template,
        tuple((name, tensor_index.get(id(tensor), -1)) for name, tensor in module._parameters.items()),
        tuple((name, tensor_index.get(id(tensor), -1)) for name, tensor in module._buffers.items()),
        tuple((name, module_index.get(id(child), -1)) for name, child in module._modules.items()),
    )
