"""What a module and the tensors passed for it must satisfy."""

import difflib
import inspect
from collections.abc import Collection, Iterable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from functional_train.values.errors import StructureError

__all__ = ["Leaves", "RESERVED", "check_keywords", "check_module", "leaves_of", "read_leaves"]

RESERVED = ("buffers", "key", "train")
_NOUNS = {"params": "parameter", "buffers": "buffer"}


_form = attrgetter("dtype", "shape")


class Leaves(NamedTuple):
    """What is known of the parameters, or of the buffers, of a module."""

    names: tuple[str, ...]
    forms: list[tuple[torch.dtype, torch.Size]]


def leaves_of(tensors: Mapping[str, Tensor]) -> Leaves:
    """Describe named tensors."""
    return Leaves(tuple(tensors), list(map(_form, tensors.values())))


def check_module(module: Any, caller: str) -> None:
    """Refuse what cannot be copied into a skeleton, with the way out."""
    if isinstance(module, type):
        raise StructureError(f"{caller} takes an nn.Module, got the class {module.__name__}. Make an instance first.")
    if not isinstance(module, nn.Module):
        raise StructureError(f"{caller} takes an nn.Module, got {type(module).__name__}.")
    for path, submodule in module.named_modules():
        reason = _reason_to_refuse(submodule)
        if reason is not None:
            where = f"submodule {path!r}" if path else "module"
            raise StructureError(f"{caller} cannot take the {where}, a {type(submodule).__name__}: {reason}")


def _reason_to_refuse(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "its code is compiled TorchScript, not Python. Pass the module it was scripted or traced from."
    # By name, because importing the class imports the whole compiler.
    if type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules:
        return "it calls the original module. Pass that, `module._orig_mod`, and put torch.compile around the step."
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return "it owns gradients and copies. Pass the wrapped module, `module.module`, and see ft.distributed."
    if any(base.__module__.startswith("torch.distributed.fsdp") for base in type(module).__mro__):
        return "it owns and shards its parameters. Pass the module before sharding, and see ft.distributed."
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and is_lazy(tensor):
            return f"{name!r} has no shape yet. Run one batch through the module first."
    return None


def check_keywords(module: nn.Module, method: str, forward_kwargs: Collection[str], has_buffers: bool) -> None:
    """Refuse a method whose keywords clash with those of `apply`."""
    function = getattr(module, method, None)
    if not callable(function):
        near = difflib.get_close_matches(method, dir(module), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise StructureError(f"method={method!r}: {type(module).__name__} has no such method.{hint}")
    if isinstance(forward_kwargs, str) or not set(forward_kwargs) <= set(RESERVED):
        raise StructureError(
            f"forward_kwargs must be a tuple of names out of {RESERVED}, got {forward_kwargs!r}. "
            "All other keywords reach the forward without it."
        )
    if has_buffers and "buffers" in forward_kwargs:
        raise StructureError(
            f"forward_kwargs cannot hold 'buffers': {type(module).__name__} has buffers of its own, "
            "which only apply(..., buffers=) can take. Rename that argument of the forward in a small wrapping module."
        )
    for name in RESERVED:
        if name in _keywords(function) and name not in forward_kwargs:
            raise StructureError(
                f"{type(module).__name__}.{method} has an argument named {name!r}, which apply keeps for itself. "
                f"functionalize(module, forward_kwargs=({name!r},)) passes {name}= on to it instead."
            )


def _keywords(function: Any) -> list[str]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, parameter in signature.parameters.items() if parameter.kind in kinds]


def read_leaves(what: str, given: Any, leaves: Leaves, owner: str) -> list[Any]:
    """Read tensors in the order of `leaves`; names, shapes and kinds of dtype must be those of the module.

    Args:
        what: `"params"` or `"buffers"`, for the error.
        given: Mapping from name to tensor.
        leaves: What the module has.
        owner: Name of the module's class, for the error.

    Returns:
        The tensors.

    Raises:
        StructureError: a name is misspelt, missing or unknown, or a tensor does not fit.
    """
    try:
        tensors = list(map(given.__getitem__, leaves.names))
        if list(map(attrgetter("dtype", "shape"), tensors)) == leaves.forms and len(given) == len(tensors):
            return tensors
    except (AttributeError, LookupError, TypeError):
        # Explained below, outside of this block, so that the error has no second one for its context.
        pass
    _check_names(what, given, leaves, owner)
    for name, (dtype, shape) in zip(*leaves, strict=True):
        _check_leaf(f"{what}[{name!r}]", given[name], shape, dtype, owner)
    return [given[name] for name in leaves.names]


def _check_leaf(where: str, tensor: Any, shape: torch.Size, dtype: torch.dtype, owner: str) -> None:
    if not isinstance(tensor, Tensor):
        hint = " Join what ft.tree.partition took apart with ft.tree.combine first." if tensor is None else ""
        raise StructureError(f"{where} must be a tensor, got {tensor!r} ({type(tensor).__name__}).{hint}")
    if tensor.shape != shape:
        raise StructureError(
            f"{where} has shape {tuple(tensor.shape)}, but in {owner} it has shape {tuple(shape)}. "
            "Shapes must be equal; for a stack of members, map apply with torch.func.vmap."
        )
    if _kind(tensor.dtype) != _kind(dtype):
        raise StructureError(
            f"{where} is {tensor.dtype}, but in {owner} it is {dtype}. "
            f"Any {_kind(dtype)} dtype is accepted; convert it with `.to({dtype})`."
        )


def _kind(dtype: torch.dtype) -> str:
    if dtype is torch.bool:
        return "boolean"
    return "complex" if dtype.is_complex else "floating" if dtype.is_floating_point else "integer"


def _check_names(what: str, given: Any, leaves: Leaves, owner: str) -> None:
    if not isinstance(given, Mapping):
        raise StructureError(f"{what} must be a mapping from name to tensor, got {type(given).__name__}.")
    missing = [name for name in leaves.names if name not in given]
    for name in given:
        if name not in leaves.names:
            near = difflib.get_close_matches(str(name), missing or leaves.names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It has {_listed(leaves.names)}. Leave others out."
            raise StructureError(f"{what}[{name!r}]: {owner} has no {_NOUNS[what]} of that name. {hint}")
    for name, (dtype, shape) in zip(*leaves, strict=True):
        if name in missing:
            raise StructureError(
                f"{what}[{name!r}] is missing, shape {tuple(shape)}, {dtype}: all {len(leaves.names)} {what} of "
                f"{owner} are needed, got {len(given)}. functionalize(module).{what} has them all."
            )


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = [repr(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
