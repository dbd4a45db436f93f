"""`TrainState`: everything a training run owns, in one immutable value."""

import operator
from typing import Any, TypeVar

import torch
from torch import Tensor

from functional_train.updates.transformation import GradientTransformation, check_transformation, zero_step
from functional_train.values.errors import OwnershipError, StructureError
from functional_train.values.params import Params
from functional_train.values.struct import struct
from functional_train.values.tree._structure import flatten, items, leaves, not_tensor
from functional_train.values.types import Tree

T = TypeVar("T")
# Faster than a comprehension, for what each plain step asks four times.
_VERSION = operator.attrgetter("_version")


@struct
class TrainState:
    """Everything that a training step reads and makes anew.

    A state remembers the version of each tensor in it from the moment it is made; a step finds a tensor that somebody
    wrote to since, and names it. Seen are the writes that torch counts: not those of its fused optimizers, through
    `.data`, or through a NumPy array that shares the memory; `record_effects` compares bits and sees these too.

    Args:
        step: () int64, batches consumed so far: the position in the data. Optimizers count updates themselves.
        params: What is trained.
        opt_state: What the optimizer remembers.
        buffers: A module's buffers, or a tree with them and values of your own, or None when the run owns none.
        key: (2,) int64 random key, or None when the run owns no randomness.

    Raises:
        ImmutableError: when a field is written to; make another with `state.replace(field=...)`.

    Example:
        >>> import functional_train as ft, torch
        >>> state = ft.init_state({"w": torch.zeros(3)}, ft.sgd(0.1))
        >>> ft.tree.paths(state)
        ['step', 'params/w']
        >>> state.replace(params={"w": torch.ones(3)}).params
        {'w': tensor([1., 1., 1.])}
    """

    step: Tensor
    params: Tree
    opt_state: Tree
    buffers: Tree | None = None
    key: Tensor | None = None

    def __post_init__(self) -> None:
        # A tracer of Python cannot read versions, and nothing outlives its trace.
        if not torch.compiler.is_compiling():
            found = flatten(self)[0]
            object.__setattr__(self, "_watched", (found, versions_of(found)))

    def replace(self, **changes: Any) -> "TrainState":
        """Make a state with some fields changed.

        Args:
            **changes: New values by field name.

        Returns:
            The new state.
        """
        fields = {name: getattr(self, name) for name in ("step", "params", "opt_state", "buffers", "key")}
        unknown = sorted(changes.keys() - fields.keys())
        if unknown:
            raise StructureError(f"TrainState has no field {unknown[0]!r}; its fields are {', '.join(fields)}.")
        return TrainState(**{**fields, **changes})


def versions_of(found: list[Any]) -> list[int | None]:
    """How often each leaf was written to, as torch counts it; None for what it does not count."""
    try:
        return list(map(_VERSION, found))
    except (AttributeError, RuntimeError):
        # Inference tensors keep no version; they cannot be written to outside inference mode either.
        return [leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else None for leaf in found]


def position(state: Any) -> int:
    """Batches consumed by a state; stacked states have gone the same way, and one that does not count is at 0."""
    return int(torch.as_tensor(getattr(state, "step", 0)).max())


def watched_leaves(state: Any) -> list[Any] | None:
    """The list in which a state keeps its leaves, in order; None for other values."""
    watched: tuple[list[Any], list[int | None]] | None = getattr(state, "_watched", None)
    return None if watched is None else watched[0]


def moved_state(state: T) -> T:
    """A new value with the fields of an old one, into whose leaves their owner wrote."""
    new = object.__new__(type(state))
    vars(new).update(vars(state))
    leaves = watched_leaves(state)
    if leaves is not None:
        vars(new)["_watched"] = (leaves, versions_of(leaves))
    return new


def check_untouched(state: Any, when: str = "after its TrainState was made") -> None:
    """Raise OwnershipError naming the first leaf that was written to, or replaced, since the state was made."""
    watched: tuple[list[Any], list[int | None]] | None = getattr(state, "_watched", None)
    if watched is None or torch.compiler.is_compiling():
        return
    leaves, versions = watched
    # Params and NamedTuples cannot change; a dict or a list of the user's can, and is looked into again.
    if not isinstance(state.params, Params):
        now = flatten(state)[0]
        if len(now) != len(leaves) or any(new is not old for new, old in zip(now, leaves, strict=True)):
            raise OwnershipError(
                f"a dict or a list inside the state was written to {when}: it holds other leaves now. Make changes "
                "with state.replace(...); params that are ft.Params cannot be written to."
            )
    if versions_of(leaves) == versions:
        return
    for position, (leaf, version) in enumerate(zip(leaves, versions, strict=True)):
        if version is not None and leaf._version != version:
            path = items(state)[position][0]
            raise OwnershipError(
                f"{path!r} was written to {when}: its version was {version} and is {leaf._version}. "
                "A state is a value; somebody changed it in place (an optimizer, an in-place operation such as +=, a "
                "module that shares the tensor), and the old numbers are gone: go back to an earlier state. Make "
                "changes with state.replace(...), and give others ft.tree.copy(state) to write to."
            )


def init_state(
    params: Tree, optimizer: GradientTransformation, *, buffers: Tree | None = None, key: Tensor | None = None
) -> TrainState:
    """Make the state that training starts from.

    Args:
        params: A tree of tensors, none of which requires grad.
        optimizer: Its `init` makes `opt_state`.
        buffers: The module's buffers, or any tree of tensors that the loss goes on from, such as `{"model": buffers,
            "mean": torch.zeros(())}`; pass them exactly when the loss takes `buffers=`.
        key: A random key of shape (2,); pass one exactly when the loss takes `key=`.

    Returns:
        The state at step 0, on the device of the parameters.

    Raises:
        StructureError: params hold no tensor, or one that requires grad, or buffers are empty.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.init_state({"w": torch.zeros(1)}, ft.adam()).step
        tensor(0)
    """
    check_transformation(optimizer, "init_state")
    found = not_tensor(params)
    if found is not None:
        path, leaf = found
        place = f"params: {path!r}" if path else "params"
        raise StructureError(
            f"{place} is a {type(leaf).__name__}, not a tensor. Of a module, pass ft.functionalize(module).params; "
            "a number becomes a parameter with torch.tensor(...)."
        )
    if not leaves(params):
        raise StructureError("params hold no leaf: there is nothing to train. Was an empty tree or a generator passed?")
    for path, leaf in items(params):
        if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.is_leaf:
            raise StructureError(
                f"params: {path!r} requires grad, so autograd could write to it. Pass values: ft.functionalize(module) "
                "gives them, or ft.tree.map(torch.Tensor.detach, params)."
            )
    if buffers is not None and not leaves(buffers):
        buffers = None
    step = zero_step(params)
    return TrainState(step, params, optimizer.init(params), buffers, key)
