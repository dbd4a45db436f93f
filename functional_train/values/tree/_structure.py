"""The shape of a tree: leaves, paths, and functions that keep the shape."""

import builtins
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import optree
import torch
from optree import PyTreeSpec
from torch import Tensor
from torch.nn import Parameter
from torch.utils import _pytree as torch_pytree

from functional_train.values.errors import StructureError

NAMESPACE = "functional_train"
_TENSORS = frozenset({Tensor, Parameter})


class _Shallow(NamedTuple):
    contents: Callable[[Any], tuple[list[Any], Hashable]]  # its children, and what its structure depends on besides
    example: Callable[[Any], Any]  # from the latter to a container whose children are leaves


_SHALLOW: dict[type, _Shallow] = {
    list: _Shallow(lambda tree: (list(tree), len(tree)), lambda length: list(range(length))),
    tuple: _Shallow(lambda tree: (list(tree), len(tree)), lambda length: tuple(range(length))),
}


def register_shallow(
    cls: type, contents: Callable[[Any], tuple[list[Any], Hashable]], example: Callable[[Any], Any]
) -> None:
    """Have `flatten` look whether all children of a container are tensors before it asks optree."""
    _SHALLOW[cls] = _Shallow(contents, example)


def register_node(
    cls: type,
    flatten_fn: Callable[[Any], tuple[tuple[Any, ...], Any, tuple[str, ...]]],
    unflatten_fn: Callable[[Any, Any], Any],
) -> None:
    """Teach both pytree libraries a container: optree's (ours) and torch's (torch.func, DTensor, export).

    `flatten_fn` gives (children, metadata, names of the children); `unflatten_fn` takes (metadata, children).
    """
    optree.register_pytree_node(cls, flatten_fn, unflatten_fn, namespace=NAMESPACE)

    # To torch's pytree None is a leaf, which vmap and grad refuse; here it is an empty subtree, and so it is part of
    # the structure.
    def present(node: Any) -> tuple[list[Any], Any, list[str]]:
        children, metadata, names = flatten_fn(node)
        there = tuple([child is not None for child in children])
        pairs = [(name, child) for name, child in zip(names, children, strict=True) if child is not None]
        return [child for _, child in pairs], (metadata, there), [name for name, _ in pairs]

    def rebuild(found: Iterable[Any], context: Any) -> Any:
        metadata, there = context
        rest = iter(found)
        return unflatten_fn(metadata, tuple([next(rest) if here else None for here in there]))

    def with_keys(node: Any) -> tuple[list[tuple[Any, Any]], Any]:
        children, context, names = present(node)
        return [(torch_pytree.MappingKey(name), child) for name, child in zip(names, children, strict=True)], context

    torch_pytree.register_pytree_node(
        cls,
        lambda node: present(node)[:2],
        rebuild,
        flatten_with_keys_fn=with_keys,
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
    )


def flatten(tree: Any, *, none_is_leaf: bool = False) -> tuple[list[Any], PyTreeSpec]:
    """Take a tree apart into its leaves and its structure.

    Args:
        tree: Any nesting of dicts, tuples, lists, NamedTuples, `Params` and structs.
        none_is_leaf: Whether `None` counts as a leaf; by default it is an empty subtree.

    Returns:
        The leaves in order, and the structure that `unflatten` takes. The keys of a `dict` are
        visited in sorted order, `Params` in their own.

    Example:
        >>> import functional_train as ft
        >>> leaves, structure = ft.tree.flatten({"b": 2, "a": (1, None)})
        >>> leaves
        [1, 2]
        >>> ft.tree.unflatten(structure, [10, 20])
        {'b': 20, 'a': (10, None)}
    """
    shallow = _SHALLOW.get(type(tree))
    if shallow is not None and not torch.compiler.is_compiling():
        # What optree asks of each leaf takes several times as long as to see that all are tensors.
        leaves, described = shallow.contents(tree)
        if _TENSORS.issuperset(builtins.map(type, leaves)):
            return leaves, _structure_of_leaves(type(tree), described, none_is_leaf)
    return optree.tree_flatten(tree, none_is_leaf=none_is_leaf, namespace=NAMESPACE)


@functools.lru_cache(maxsize=1024)
def _structure_of_leaves(kind: type, described: Any, none_is_leaf: bool) -> PyTreeSpec:
    return optree.tree_structure(_SHALLOW[kind].example(described), none_is_leaf=none_is_leaf, namespace=NAMESPACE)


def unflatten(structure: PyTreeSpec, leaves: Sequence[Any]) -> Any:
    """Put leaves back into a structure; the inverse of `flatten`.

    Args:
        structure: What `flatten` returned second.
        leaves: As many leaves as the structure has.

    Returns:
        The tree.

    Raises:
        ValueError: the number of leaves is another one.

    Example:
        >>> import functional_train as ft
        >>> leaves, structure = ft.tree.flatten([1, [2]])
        >>> ft.tree.unflatten(structure, leaves)
        [1, [2]]
    """
    return optree.tree_unflatten(structure, leaves)


def leaves(tree: Any) -> list[Any]:
    """List the leaves of a tree, in the order of `flatten`.

    Args:
        tree: Any tree.

    Returns:
        Its leaves; `None` is an empty subtree and has none.

    Example:
        >>> import functional_train as ft
        >>> ft.tree.leaves({"a": 1, "b": (2, None)})
        [1, 2]
    """
    return optree.tree_leaves(tree, namespace=NAMESPACE)


def map(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Apply a function to every leaf, or to the leaves of several trees in step.

    The first tree gives the structure. Another tree may have a whole subtree, or `None`, where the first has a leaf,
    and `fn` is then given that: so map over `params` first when `grads` may hold `None`.

    Args:
        fn: `(leaf, *others) -> leaf`.
        tree: The tree that gives the structure.
        *rest: Trees with the same structure or a finer one.

    Returns:
        A tree with the structure of `tree`.

    Raises:
        StructureError: a tree does not have the structure of the first; the message names where.

    Example:
        >>> import functional_train as ft
        >>> ft.tree.map(lambda a, b: a + b, {"x": 1, "y": 2}, {"x": 10, "y": 20})
        {'x': 11, 'y': 22}
    """
    try:
        return optree.tree_map(fn, tree, *rest, namespace=NAMESPACE)
    except ValueError:
        for other in rest:
            check_prefix(tree, other)
        raise


def is_leaf(node: Any) -> bool:
    """Whether a node is a leaf and no container; `None` is a container without children."""
    return optree.tree_is_leaf(node, namespace=NAMESPACE)


def children(node: Any) -> list[tuple[str, Any]] | None:
    """The named children of one node, or None for a leaf; `None` is a node without children."""
    # Asked first: the error of the next line would print the leaf, for which the host waits for the device.
    if is_leaf(node):
        return None
    nodes, _, entries, _ = optree.tree_flatten_one_level(node, namespace=NAMESPACE)
    names = node._fields if optree.is_namedtuple(node) else entries
    return [(str(name), child) for name, child in zip(names, nodes, strict=True)]


def with_children(node: Any, new_children: Sequence[Any]) -> Any:
    """The same node around other children."""
    _, metadata, _, rebuild = optree.tree_flatten_one_level(node, namespace=NAMESPACE)
    return rebuild(metadata, tuple(new_children))


def _walk(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    below = children(node)
    if below is None:
        yield prefix, node
        return
    for name, child in below:
        yield from _walk(child, f"{prefix}/{name}" if prefix else name)


def items(tree: Any) -> list[tuple[str, Any]]:
    """List the leaves of a tree with their paths.

    Args:
        tree: Any tree.

    Returns:
        Pairs of path and leaf, in the order of `flatten`. The path of a tree that is one leaf is empty.

    Example:
        >>> import functional_train as ft
        >>> ft.tree.items({"layer1.weight": 1, "opt_state": (2, 3)})
        [('layer1.weight', 1), ('opt_state/0', 2), ('opt_state/1', 3)]
    """
    return list(_walk(tree, ""))


def paths(tree: Any) -> list[str]:
    """List the paths of the leaves of a tree.

    Args:
        tree: Any tree.

    Returns:
        One path a leaf, in the order of `flatten`: names of fields, keys and positions, joined by "/".

    Example:
        >>> import functional_train as ft
        >>> ft.tree.paths({"a": [1, 2], "b": 3})
        ['a/0', 'a/1', 'b']
    """
    return [path for path, _ in _walk(tree, "")]


def same_structure(tree: Any, *rest: Any) -> bool:
    """Say whether trees have one structure: the same containers, names, static fields and number of leaves.

    Args:
        tree: Any tree.
        *rest: Trees to compare with it.

    Returns:
        True when every structure equals the first.

    Example:
        >>> import functional_train as ft
        >>> ft.tree.same_structure({"a": 1}, {"a": 5.0}), ft.tree.same_structure([1], (1,))
        (True, False)
    """
    structure = optree.tree_structure(tree, namespace=NAMESPACE)
    return all(optree.tree_structure(other, namespace=NAMESPACE) == structure for other in rest)


def difference(first: Any, second: Any, names: tuple[str, str], *, prefix: bool = False, path: str = "") -> str | None:
    """Say in words where two trees first differ in structure, or None when they do not.

    With `prefix` the second may be finer: where the first has a leaf, anything is accepted.
    """
    left, right = children(first), children(second)
    place = f"at {path!r}" if path else "at the top"
    if left is None:
        found = None if right is None or prefix else _kind(second)
        return found and f"{place}: {names[0]} has a leaf there, {names[1]} has {found}"
    if right is None or type(first) is not type(second):
        return f"{place}: {names[0]} has {_kind(first)} there, {names[1]} has {_kind(second)}"
    left_names, right_names = [name for name, _ in left], [name for name, _ in right]
    for own, other, holder, lacking in ((left_names, right_names, *names), (right_names, left_names, *reversed(names))):
        for name in own:
            if name not in other:
                return f"at {f'{path}/{name}' if path else name!r}: {holder} has it, {lacking} does not"
    if left_names != right_names:
        return f"{place}: the same names in another order, {left_names} and {right_names}"
    for (name, one), (_, other) in zip(left, right, strict=True):
        below = difference(one, other, names, prefix=prefix, path=f"{path}/{name}" if path else name)
        if below is not None:
            return below
    return None if _metadata(first) == _metadata(second) else f"{place}: the static fields differ"


def _metadata(node: Any) -> Any:
    return optree.tree_flatten_one_level(node, namespace=NAMESPACE)[1]


def _kind(node: Any) -> str:
    if node is None:
        return "None"
    if children(node) is None:
        return f"a leaf ({type(node).__name__})"
    return f"a {type(node).__name__}"


def check_same_structure(first: Any, second: Any, names: tuple[str, str], hint: str = "") -> None:
    """Raise StructureError naming the place where two trees differ in structure."""
    if not same_structure(first, second):
        raise StructureError(f"{names[0]} and {names[1]} differ {difference(first, second, names)}. {hint}".rstrip())


def check_prefix(tree: Any, other: Any) -> None:
    """Raise StructureError where `other` is neither the structure of `tree` nor finer."""
    found = difference(tree, other, ("the first tree", "another"), prefix=True)
    if found is not None:
        raise StructureError(
            f"trees differ {found}. All trees of one call need the structure of the first; "
            "where gradients may be None, put params first."
        )


def as_known_mappings(tree: Any) -> Any:
    """Turn mappings that optree does not know into dicts, so that what they hold is seen.

    A tokenizer's `BatchEncoding` or a model's `ModelOutput` is a mapping in its own class; as a leaf its tensors would
    be invisible.
    """

    def convert(leaf: Any) -> Any:
        return {name: as_known_mappings(leaf[name]) for name in leaf} if isinstance(leaf, Mapping) else leaf

    if not any(isinstance(leaf, Mapping) for leaf in leaves(tree)):
        return tree
    return map(convert, tree)


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is a tensor that can have a gradient: floating or complex."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def tensors(tree: Any) -> list[Tensor]:
    """The leaves of a tree that are tensors."""
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor)]


def not_tensor(tree: Any) -> tuple[str, Any] | None:
    """The path and value of the first leaf that is no tensor, or None when all are."""
    return next(((path, leaf) for path, leaf in items(tree) if not isinstance(leaf, Tensor)), None)


def device_of(tree: Any) -> torch.device | None:
    """The device of the first tensor of a tree, or None when it holds none."""
    found = tensors(tree)
    return found[0].device if found else None
