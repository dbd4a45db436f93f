"""Columns split by labels of their leaves, and put together again."""

from collections.abc import Mapping, Sequence
from typing import Any

from functional_train.values.errors import StructureError
from functional_train.values.tree._flat import Flat, Frame
from functional_train.values.tree._structure import flatten, unflatten


def split(labels: Sequence[str], p: Flat, g: Flat) -> dict[str, tuple[Flat, Flat]]:
    """Columns of the leaves of one label each, as if the tree had nothing else.

    Args:
        labels: One for each leaf of the tree that `p` comes from.
        p: The parameters.
        g: A column beside them.

    Returns:
        For each label the columns of its leaves.

    Raises:
        StructureError: the tree has another number of leaves.
    """
    slots, structure = flatten(p.tree(), none_is_leaf=True)
    leaves = [slot for slot, leaf in enumerate(slots) if leaf is not None]
    check_num_labels(labels, len(leaves))
    parts: dict[str, tuple[Flat, Flat]] = {}
    rows = list(zip(_labels_of_rows(labels, p), _places(p, leaves), p.leaves, g.leaves, strict=True))
    for label in dict.fromkeys(labels):
        own = [row for row in rows if row[0] == label]
        members = [slot for slot, other in zip(leaves, labels, strict=True) if other == label]
        frame = Frame(structure, len(slots), members, [row[1] for row in own])
        inside = frozenset(members)
        tree = unflatten(structure, [leaf if slot in inside else None for slot, leaf in enumerate(slots)])
        parts[label] = (
            Flat([row[2] for row in own], frame, p.plain, tree),
            Flat([row[3] for row in own], frame, g.plain, fresh=g.fresh),
        )
    return parts


def join(labels: Sequence[str], columns: Mapping[str, Flat], p: Flat) -> Flat:
    """Put together what became of the parts that `split` made, as a column beside `p`."""
    rest = {name: iter(column.leaves) for name, column in columns.items()}
    leaves = [next(rest[label]) for label in _labels_of_rows(labels, p)]
    plain, fresh = (all(getattr(one, flag) for one in columns.values()) for flag in ("plain", "fresh"))
    return Flat(leaves, p.frame, plain, fresh=fresh)


def filled(labels: Sequence[str], label: str, part: Any, like: Any) -> Any:
    """The whole tree: a part's leaves, among the others of the tree that it is a part of."""
    return _chosen(labels, label, part, like, True)


def only(labels: Sequence[str], label: str, values: Any, like: Any) -> Any:
    """The values that stand where the leaves of a part are, and `None` elsewhere."""
    return _chosen(labels, label, values, like, False)


def _chosen(labels: Sequence[str], label: str, inside: Any, like: Any, others: bool) -> Any:
    slots, structure = flatten(like, none_is_leaf=True)
    rest = iter(labels)
    own = [leaf is not None and next(rest) == label for leaf in slots]
    rows = zip(own, structure.flatten_up_to(inside), slots, strict=True)
    return unflatten(structure, [value if here else leaf if others else None for here, value, leaf in rows])


def check_num_labels(labels: Sequence[str], num_leaves: int) -> None:
    """Refuse labels of another tree."""
    if len(labels) != num_leaves:
        raise StructureError(
            f"the optimizer state has labels for {len(labels)} leaves, the parameters have {num_leaves}. "
            "It was made for other parameters: call optimizer.init(params)."
        )


def _labels_of_rows(labels: Sequence[str], p: Flat) -> Sequence[str]:
    return labels if p.frame.ranks is None else [labels[rank] for rank in p.frame.ranks]


def _places(p: Flat, leaves: Sequence[int]) -> Sequence[int]:
    return leaves if p.frame.positions is None else p.frame.positions
