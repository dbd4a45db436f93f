"""A module without its tensors, and how to put tensors back for one call."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from functional_train.models._checks import Leaves
from functional_train.models._rebuild import Call, Maker
from functional_train.values.errors import PurityError

__all__ = ["Constant", "Plan", "Skeleton", "instantiate"]


class Plan(NamedTuple):
    """How to make one submodule."""

    path: str
    cls: type[nn.Module]
    template: dict[str, Any]  # attributes that all calls share; None for the others, so that a copy never grows
    parameters: tuple[tuple[str, int], ...]  # attribute, index into the tensors of the call
    buffers: tuple[tuple[str, int], ...]
    children: tuple[tuple[str, int], ...]  # attribute, index into the modules of the call, -1 for None


class Constant(NamedTuple):
    """A tensor that is neither parameter nor buffer, which all calls share."""

    name: str
    tensor: Tensor
    version: int


class Skeleton(NamedTuple):
    """A module without its parameters and buffers."""

    plans: tuple[Plan, ...]  # children before parents, so the root is last
    made: tuple[tuple[int, str, Maker], ...]  # module, attribute that refers to tensors or modules of the call
    parameters: Leaves
    buffers: Leaves
    buffer_sites: tuple[tuple[int, str, int], ...]  # module, attribute, index into buffers
    constants: tuple[Constant, ...]
    renormalized: tuple[int, ...]  # parameters that the forward writes to
    owner: str

    def check_constants(self) -> None:
        """Refuse a forward that wrote to a tensor which all calls share."""
        for name, tensor, version in self.constants:
            if tensor._version != version:
                raise PurityError(
                    f"the forward of {self.owner} wrote to {name!r}, a tensor that is neither parameter nor buffer, so "
                    "the write would be hidden state. Register it with register_buffer and functionalize again."
                )


def instantiate(skeleton: Skeleton, tensors: list[Any], flags: Sequence[bool] | None = None) -> list[nn.Module]:
    """Make the submodules of one call, children before parents; the last one is the root.

    Args:
        skeleton: Of the module.
        tensors: Parameters, buffers, None.
        flags: What `training` is, for each plan; True if None.

    Returns:
        Modules that no other call sees.
    """
    # Loops instead of comprehensions, and hook tables one by one: this is the cost of a call, 1.2 us a submodule.
    modules: list[Any] = []
    for _, cls, template, parameters, buffers, children in skeleton.plans:
        attributes = template.copy()
        attributes["_parameters"] = bound = {}
        for name, index in parameters:
            bound[name] = tensors[index]
        attributes["_buffers"] = bound = {}
        for name, index in buffers:
            bound[name] = tensors[index]
        attributes["_modules"] = bound = {}
        for name, index in children:
            bound[name] = modules[index] if index >= 0 else None
        attributes["_forward_hooks"] = OrderedDict()
        attributes["_forward_pre_hooks"] = OrderedDict()
        attributes["_backward_hooks"] = OrderedDict()
        attributes["_backward_pre_hooks"] = OrderedDict()
        module = object.__new__(cls)
        object.__setattr__(module, "__dict__", attributes)
        modules.append(module)
    if flags is not None:
        for module, training in zip(modules, flags, strict=True):
            module.__dict__["training"] = training
    if skeleton.made:
        call = Call(tensors, modules, {})
        for position, name, maker in skeleton.made:
            modules[position].__dict__[name] = maker(call)
    return modules
