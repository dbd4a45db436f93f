"""Trees addressed by name: take a part out, put a part back, split by a predicate."""

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from functional_train.values.errors import PathError, StructureError
from functional_train.values.tree._structure import (
    check_same_structure,
    children,
    flatten,
    items,
    paths,
    unflatten,
    with_children,
)

Predicate = str | Sequence[str] | Callable[[str, Any], bool]


def matches(predicate: Predicate, path: str, leaf: Any) -> bool:
    """Whether a predicate takes a leaf: globs of its path, or a function of path and leaf."""
    if callable(predicate):
        return bool(predicate(path, leaf))
    patterns = (predicate,) if isinstance(predicate, str) else predicate
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def partition(tree: Any, predicate: Predicate) -> tuple[Any, Any]:
    """Split a tree in two of the same shape, each with `None` where the other has the leaf.

    Args:
        tree: Any tree.
        predicate: A glob of the path (`"*.bias"`), several globs, or `(path, leaf) -> bool`.

    Returns:
        The leaves that the predicate takes, and the rest. `combine` puts them together again.

    Raises:
        PathError: a glob matches no path.

    Example:
        >>> import functional_train as ft
        >>> ft.tree.partition({"layer.weight": 1, "layer.bias": 2}, "*.bias")
        ({'layer.weight': None, 'layer.bias': 2}, {'layer.weight': 1, 'layer.bias': None})
    """
    structure = flatten(tree)[1]
    check_globs(tree, predicate)
    taken = [(matches(predicate, path, leaf), leaf) for path, leaf in items(tree)]
    return (
        unflatten(structure, [leaf if take else None for take, leaf in taken]),
        unflatten(structure, [None if take else leaf for take, leaf in taken]),
    )


def check_globs(tree: Any, predicate: Predicate) -> None:
    """Refuse a glob that takes no path."""
    if callable(predicate):
        return
    known = paths(tree)
    for pattern in (predicate,) if isinstance(predicate, str) else predicate:
        if known and not any(fnmatchcase(path, pattern) for path in known):
            raise PathError(
                f"no path matches {pattern!r}, so nothing would be taken by it. The paths begin: "
                f"{', '.join(known[:10])}."
            )


def combine(*trees: Any) -> Any:
    """Put together trees of one shape: each leaf from the first tree that has it.

    Args:
        *trees: Trees of one structure in which `None` stands for "not here".

    Returns:
        The combined tree; `None` remains where no tree has a leaf.

    Raises:
        StructureError: the trees do not have one shape.

    Example:
        >>> import functional_train as ft
        >>> ft.tree.combine({"a": 1, "b": None}, {"a": None, "b": 2})
        {'a': 1, 'b': 2}
    """
    if not trees:
        raise StructureError("combine was given no trees. Pass the parts that `partition` returned.")
    flattened = [flatten(tree, none_is_leaf=True) for tree in trees]
    structure = flattened[0][1]
    for position, (_, found) in enumerate(flattened):
        if found != structure:
            check_same_structure(trees[0], trees[position], ("tree 0", f"tree {position}"))
    rows = zip(*(column for column, _ in flattened), strict=True)
    return unflatten(structure, [next((leaf for leaf in row if leaf is not None), None) for row in rows])


def _nodes(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, node
    for name, child in children(node) or ():
        yield from _nodes(child, (*path, name))


def _find(tree: Any, name: str) -> tuple[str, ...]:
    # Compared as they are written, since a name may hold a slash itself.
    written = [(path, "/".join(path)) for path, _ in _nodes(tree, ())]
    nodes = [path for path, full in written if full == name]
    nodes = nodes or [path for path, full in written if f"/{full}".endswith(f"/{name}")]
    if len(nodes) == 1:
        return nodes[0]
    if nodes:
        listed = ", ".join(repr("/".join(path)) for path in nodes)
        raise PathError(f"{name!r} is ambiguous: it could be {listed}. Write more of the path.")
    known = ", ".join(path for path, _ in items(tree)[:20]) or "none: the tree is empty"
    raise PathError(
        f"nothing in the tree is called {name!r}. The paths of its leaves begin: {known}. A hyperparameter is in an "
        "optimizer state when it was passed to a factory that ft.inject_hyperparams made."
    )


def get(tree: Any, name: str) -> Any:
    """Read a leaf or a subtree by its path.

    Args:
        tree: Any tree.
        name: A path (`"opt_state/0/exp_avg"`), or any tail of one that is not ambiguous (`"exp_avg"`).

    Returns:
        What is there.

    Raises:
        PathError: no such path, or several; the message lists them.

    Example:
        >>> import functional_train as ft
        >>> ft.tree.get({"opt_state": ({"lr": 0.1}, {"step": 3})}, "lr")
        0.1
    """
    for part in _find(tree, name):
        tree = dict(children(tree) or ())[part]
    return tree


def set(tree: Any, name: str, value: Any) -> Any:
    """Make a tree in which one leaf or subtree is another.

    Args:
        tree: Any tree; it is not changed.
        name: A path, or any tail of one that is not ambiguous.
        value: The new part, of the old one's structure. A number that takes the place of a tensor becomes a tensor of
            its shape, dtype and device.

    Returns:
        The new tree; all other leaves are the same objects.

    Raises:
        PathError: no such path, or several; the message lists them.
        StructureError: the new part has another structure, or a tensor has another shape or stands for no tensor.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.set({"lr": torch.tensor(0.1), "step": 3}, "lr", 0.5)
        {'lr': tensor(0.5000), 'step': 3}
    """
    path = _find(tree, name)
    return _replaced(tree, path, value, "/".join(path))


def _replaced(node: Any, path: tuple[str, ...], value: Any, full: str) -> Any:
    if path:
        return with_children(
            node,
            [
                _replaced(child, path[1:], value, full) if name == path[0] else child
                for name, child in children(node) or ()
            ],
        )
    if isinstance(node, Tensor) and isinstance(value, bool | int | float | complex):
        return torch.full_like(node, value)
    check_same_structure(node, value, ("the tree", "the new part"), f"It was to be put at {full!r}.")
    for (below, old), (_, new) in zip(items(node), items(value), strict=True):
        place = f"{full}/{below}" if below else full
        if isinstance(old, Tensor) and not isinstance(new, Tensor):
            raise StructureError(
                f"{place!r} is a tensor, the new part a {type(new).__name__}. Put a tensor or a number there; a "
                "schedule goes to the factory of the optimizer."
            )
        if isinstance(old, Tensor) and old.shape != new.shape:
            raise StructureError(f"{place!r} has shape {tuple(old.shape)}, the new part {tuple(new.shape)}.")
    return value


def map_params(fn: Callable[..., Any], tree: Any, params: Any) -> Any:
    """Apply a function to those leaves of a tree that stand for a parameter, such as the moments of an optimizer state.

    They are the leaves of every subtree that has the structure and the shapes of the parameters. Step counts and
    hyperparameters are passed over.

    Args:
        fn: `(leaf, parameter) -> leaf`.
        tree: Any tree.
        params: The parameters that the tree was made for.

    Returns:
        A tree of the same structure; all other leaves are the same objects.

    Example:
        >>> import functional_train as ft, torch
        >>> params = {"w": torch.ones(3)}
        >>> opt_state = ft.tree.map_params(lambda leaf, param: leaf + 5, ft.scale_by_adam().init(params), params)
        >>> opt_state.exp_avg, opt_state.step
        ({'w': tensor([5., 5., 5.])}, tensor([0]))
    """
    structure, shapes = flatten(params)[1], [_shape(leaf) for leaf in flatten(params)[0]]

    def mapped(node: Any) -> Any:
        leaves, found = flatten(node)
        if found == structure and [_shape(leaf) for leaf in leaves] == shapes:
            return unflatten(structure, [fn(*row) for row in zip(leaves, flatten(params)[0], strict=True)])
        below = children(node)
        return node if not below else with_children(node, [mapped(child) for _, child in below])

    return mapped(tree)


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else None
