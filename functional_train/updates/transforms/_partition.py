"""Another transformation for each part of the parameters, chosen by path and leaf."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from functional_train.updates.apply import move_columns
from functional_train.updates.chain import identity
from functional_train.updates.transformation import (
    GradientTransformation,
    check_state,
    check_transformation,
    columnwise,
    init_empty,
    stateless_columns,
    update_columns,
    with_move,
)
from functional_train.values import tree
from functional_train.values.errors import PathError, StructureError
from functional_train.values.params import Params
from functional_train.values.struct import static_field, struct
from functional_train.values.tree import Flat
from functional_train.values.tree._lookup import Predicate, check_globs, matches
from functional_train.values.tree._split import filled, join, only, split
from functional_train.values.types import Tree

Labels = Mapping[str, str] | Callable[[str, Any], str]
"""Glob of a path to label, of which the first that matches counts; or `(path, leaf) -> label`."""

# Extra arguments (params, ...) -> (grads, ...), of whole parameters.
_FUNCTIONS_OF_PARAMS = frozenset(("grad_and_value_fn", "sampled_grad_fn"))


@struct
class PartitionState:
    """The states of the parts.

    Attributes:
        inner: Label to the state that its transformation has for its leaves.
        labels: One for each leaf of the parameters; not a leaf itself, but part of the structure.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.freeze(ft.sgd(0.1, momentum=0.9), "embed.*")
        >>> optimizer.init({"embed.weight": torch.ones(2), "head.weight": torch.ones(2)}).labels
        ('frozen', 'trained')
    """

    inner: Params
    labels: tuple[str, ...] = static_field()


def partition(transformations: Mapping[str, GradientTransformation], labels: Labels) -> GradientTransformation:
    """Give each part of the parameters a transformation of its own.

    Each sees a tree in which `None` stands for the leaves of the others, so norms are those of its part, and its state
    holds nothing else. A transformation without leaves is not asked. `grad_and_value_fn=` is to each a function of its
    part, with the others where they are before the update; `value=` and `key=` are the same for all.

    Args:
        transformations: Label to transformation.
        labels: Globs of paths to labels, of which the first that matches a path counts (`{"*.bias": "plain", "*":
            "decayed"}`), or `(path, leaf) -> label`.

    Returns:
        Transformation with `PartitionState`.

    Raises:
        StructureError: a value is not a transformation, or at the update: there are no parameters, or others than at
            `init`.
        PathError: at `init`: a leaf has no label or an unknown one, or a glob matches nothing.

    Source: Optax, `partition`; the parameter groups of torch.optim.

    Example:
        >>> import functional_train as ft, torch
        >>> parts = {"matrices": ft.sgd(0.1), "rest": ft.adam(0.01)}
        >>> optimizer = ft.partition(parts, lambda path, leaf: "matrices" if leaf.ndim == 2 else "rest")
        >>> params = {"w": torch.ones(1, 1), "b": torch.ones(1)}
        >>> optimizer.update(params, optimizer.init(params), params)[0]
        {'w': tensor([[-0.1000]]), 'b': tensor([-0.0100])}
    """
    for label, transformation in transformations.items():
        check_transformation(transformation, f"partition, for {label!r},")

    def init(params: Tree) -> PartitionState:
        found = _labels_of(params, labels, transformations)
        numbered = iter(found)
        named = tree.map(lambda leaf: next(numbered), params)
        inner = {label: transformations[label].init(_only(params, named, label)) for label in transformations}
        return PartitionState(Params(inner), found)

    def parts_of(g: Flat, state: PartitionState, p: Flat | None) -> dict[str, tuple[Flat, Flat]]:
        check_state(state, PartitionState)
        if p is None:
            raise StructureError("partition sorts parameters by their paths: pass params to the update, not None.")
        return split(state.labels, p, g)

    def update(g: Flat, state: PartitionState, p: Flat | None, **extra: Any) -> tuple[Flat, PartitionState]:
        made: dict[str, tuple[Flat, Tree, Any]] = {}
        for label, (own_p, own_g) in parts_of(g, state, p).items():
            own = _for_part(extra, p, state.labels, label)
            made[label] = update_columns(transformations[label], own_g, state.inner[label], own_p, own)
        return _joined(made, state, g)

    def move(g: Flat, state: PartitionState, p: Flat, **extra: Any) -> tuple[Flat, PartitionState]:
        made: dict[str, tuple[Flat, Tree]] = {}
        for label, (own_p, own_g) in parts_of(g, state, p).items():
            own = _for_part(extra, p, state.labels, label)
            made[label] = move_columns(transformations[label], own_g, state.inner[label], own_p, own)
        return _joined(made, state, p)

    return GradientTransformation(init, columnwise(update, move))


def _for_part(extra: Mapping[str, Any], p: Flat | None, labels: Sequence[str], label: str) -> dict[str, Any]:
    """The extra arguments of one part: functions of whole parameters become functions of it."""
    own = dict(extra)
    for name in _FUNCTIONS_OF_PARAMS & extra.keys():
        own[name] = _of_part(extra[name], p, labels, label)
    return own


def _of_part(whole_fn: Callable[..., tuple[Tree, Any]], p: Flat | None, labels: Sequence[str], label: str) -> Any:
    assert p is not None
    params = p.tree()

    def part_fn(part: Tree, *args: Any) -> tuple[Tree, Any]:
        grads, other = whole_fn(filled(labels, label, part, params), *args)
        return only(labels, label, grads, params), other

    return part_fn


def _joined(made: Mapping[str, tuple[Any, ...]], state: PartitionState, like: Flat) -> tuple[Flat, PartitionState]:
    column = join(state.labels, {label: one[0] for label, one in made.items()}, like)
    return column, PartitionState(state.inner | {label: one[1] for label, one in made.items()}, state.labels)


def _only(params: Tree, named: Tree, label: str) -> Tree:
    return tree.map(lambda leaf, own: leaf if own == label else None, params, named)


def _labels_of(params: Tree, labels: Labels, known: Mapping[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    if not callable(labels):
        check_globs(params, tuple(labels))
    for path, leaf in tree.items(params):
        if callable(labels):
            label = labels(path, leaf)
        else:
            label = next((own for glob, own in labels.items() if matches(glob, path, leaf)), None)
        if label is None or label not in known:
            what = "no glob matches it" if label is None else f"its label is {label!r}"
            raise PathError(
                f"partition has no transformation for {path!r}: {what}; the transformations are "
                f"{', '.join(map(repr, known))}. End the globs with '*' to catch the rest."
            )
        found.append(label)
    return tuple(found)


def masked(transformation: GradientTransformation, mask: Predicate = "*") -> GradientTransformation:
    """Apply a transformation to some leaves only; the gradients of the others are passed on as they are.

    A whole optimizer behind a mask would thus add bare gradients to the others: to leave those alone, `freeze` them.

    Args:
        transformation: For the leaves that the mask takes.
        mask: Glob of the path, several globs, or `(path, leaf) -> bool`.

    Returns:
        Transformation with `PartitionState`, whose labels are `"taken"` and `"passed"`.

    Raises:
        StructureError: the first argument is not a transformation.
        PathError: at `init`: a glob matches nothing.

    Source: Optax, `masked`.

    Example:
        >>> import functional_train as ft, torch
        >>> decay = ft.masked(ft.add_decayed_weights(0.1), "*.weight")
        >>> params = {"layer.weight": torch.ones(1), "layer.bias": torch.ones(1)}
        >>> decay.update(ft.tree.zeros_like(params), decay.init(params), params)[0]
        {'layer.weight': tensor([0.1000]), 'layer.bias': tensor([0.])}
    """
    check_transformation(transformation, "masked")
    return _in_two({"taken": transformation, "passed": identity()}, mask)


def freeze(optimizer: GradientTransformation, frozen: Predicate = ()) -> GradientTransformation:
    """Train some leaves only; the others keep every bit, and have no state.

    Their gradients are still computed. Where that costs too much, split the parameters with `ft.tree.partition` and
    differentiate a loss of the trained ones.

    Args:
        optimizer: For the leaves that are trained.
        frozen: Glob of the path, several globs, or `(path, leaf) -> bool`: the leaves that stay.

    Returns:
        Transformation with `PartitionState`, whose labels are `"frozen"` and `"trained"`.

    Raises:
        StructureError: the first argument is not a transformation.
        PathError: at `init`: a glob matches nothing.

    Source: Optax, `selective_transform`.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.freeze(ft.adamw(0.1), "embed.*")
        >>> params = {"embed.weight": torch.ones(1), "head.weight": torch.ones(1)}
        >>> ft.make_update(optimizer)(params, optimizer.init(params), params)[0]
        {'embed.weight': tensor([1.]), 'head.weight': tensor([0.8990])}
    """
    check_transformation(optimizer, "freeze")
    return _in_two({"frozen": _stay(), "trained": optimizer}, frozen)


def _stay() -> GradientTransformation:
    # Adding -0.0 keeps every number as it is; adding 0.0 would turn -0.0 around.
    still = stateless_columns(lambda g, p: g.map(lambda leaf: torch.full_like(leaf, -0.0)))
    return with_move(GradientTransformation(init_empty, still.update), lambda g, state, p, **extra: (p, state))


def _in_two(transformations: Mapping[str, GradientTransformation], predicate: Predicate) -> GradientTransformation:
    yes, no = transformations
    parts = partition(transformations, lambda path, leaf: yes if matches(predicate, path, leaf) else no)

    def init(params: Tree) -> Tree:
        check_globs(params, predicate)
        return parts.init(params)

    return GradientTransformation(init, parts.update)
