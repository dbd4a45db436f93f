"""Trees laid side by side as columns of leaves, for a run of arithmetic that takes them apart only once."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from optree import PyTreeSpec
from torch import Tensor

from functional_train.values.errors import StructureError
from functional_train.values.tree._precision import wide_dtype
from functional_train.values.tree._structure import check_prefix, difference, flatten, paths, unflatten

_REQUIRES_GRAD = attrgetter("requires_grad")
_UNKNOWN: Any = object()


class Frame:
    """What columns that were laid side by side have in common: their structure, and which leaves are there.

    `positions` and `ranks` are None when all are. Otherwise `None` fills a slot of the structure: `positions` counts
    slots, and `ranks` counts only those in which some tree has a leaf, which are `leaves`.
    """

    __slots__ = ("num_leaves", "num_slots", "positions", "ranks", "structure")

    def __init__(
        self, structure: PyTreeSpec, num_slots: int, leaves: Sequence[int] | None = None, positions: Any = None
    ) -> None:
        self.structure = structure
        self.num_leaves = self.num_slots = num_slots
        self.positions: list[int] | None = positions
        self.ranks: list[int] | None = None
        if leaves is not None:
            rank = {slot: rank for rank, slot in enumerate(leaves)}
            self.num_leaves, self.ranks = len(leaves), [rank[slot] for slot in positions]


class Flat:
    """The leaves of one tree in order, without those that are `None` in a tree beside it.

    Every function of `ft.tree`'s arithmetic takes a `Flat` in place of a tree and then returns one.

    Args:
        leaves: The leaves that are there.
        frame: The structure they came from, shared by all columns of one `flat` call.
        plain: Whether the leaves may go through fused calls (see `flat`).
        source: The tree that they are the leaves of, where it is at hand.
        fresh: Whether arithmetic made the leaves and nobody but this column has them.
        dtype: That of every leaf, where it is known already.

    Example:
        >>> import functional_train as ft, torch
        >>> (column,) = ft.tree.flat({"w": torch.ones(2), "b": None})
        >>> ft.tree.scale(3, column).tree()
        {'w': tensor([3., 3.]), 'b': None}
    """

    __slots__ = (
        "_contiguous",
        "_dtype",
        "_on_one_device",
        "_sizes",
        "frame",
        "fresh",
        "leaves",
        "plain",
        "source",
        "spent",
    )

    def __init__(
        self,
        leaves: list[Any],
        frame: Frame,
        plain: bool,
        source: Any = None,
        fresh: bool = False,
        dtype: torch.dtype | None = _UNKNOWN,
    ) -> None:
        self.leaves = leaves
        self.frame = frame
        self.plain = plain
        self.source = source
        self.fresh = fresh
        self.spent = False
        self._dtype = dtype
        self._contiguous: bool | None = None
        self._on_one_device: bool | None = None
        self._sizes: list[torch.Size] | None = None

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype that all leaves have, or None where they differ or there are none."""
        if self._dtype is _UNKNOWN:
            dtypes = {leaf.dtype for leaf in self.leaves}
            self._dtype = dtypes.pop() if len(dtypes) == 1 else None
        return self._dtype

    @property
    def contiguous(self) -> bool:
        """Whether all leaves are dense and contiguous."""
        if self._contiguous is None:
            try:
                self._contiguous = all(map(Tensor.is_contiguous, self.leaves))
            except RuntimeError:  # a sparse leaf has no such order
                self._contiguous = False
        return self._contiguous

    @property
    def sizes(self) -> list[torch.Size]:
        """The shape of each leaf."""
        if self._sizes is None:
            self._sizes = list(map(Tensor.size, self.leaves))
        return self._sizes

    @property
    def on_one_device(self) -> bool:
        """Whether all leaves lie on one device."""
        if self._on_one_device is None:
            self._on_one_device = len({leaf.device for leaf in self.leaves}) <= 1
        return self._on_one_device

    def tree(self, absent: Any = None) -> Any:
        """The column as a tree again. From then on others may hold its leaves.

        Args:
            absent: A tree to take the leaves from that are not in this column; by default they are `None`.

        Returns:
            A tree of the structure that the column came from.
        """
        self.fresh = self.spent = False
        frame = self.frame
        if self.source is not None and (absent is None or frame.positions is None):
            return self.source
        if frame.positions is None:
            return unflatten(frame.structure, self.leaves)
        filled = [None] * frame.num_slots if absent is None else frame.structure.flatten_up_to(absent)
        for position, leaf in zip(frame.positions, self.leaves, strict=True):
            filled[position] = leaf
        return unflatten(frame.structure, filled)

    def spend(self) -> "Flat":
        """Give this column up: the operation that it is the first operand of may write into fresh leaves.

        Whoever calls this has no further use for the column, and for nothing that was computed without a copy from it.
        """
        self.spent = self.fresh and self.plain
        return self

    def held(self) -> "Flat":
        """Another column of the same leaves, which nobody can spend."""
        return Flat(self.leaves, self.frame, self.plain, self.source)

    def beside(self, *trees: Any) -> "tuple[Flat, ...]":
        """Lay more trees of the same structure beside this column.

        Args:
            *trees: Trees that have a leaf wherever this column has one.

        Returns:
            One column a tree.

        Raises:
            StructureError: a structure differs; the message names where.
        """
        frame = self.frame
        columns: list[list[Any]] = []
        for tree in trees:
            column, structure = flatten(tree, none_is_leaf=frame.positions is not None)
            if structure is not frame.structure and structure != frame.structure:
                own = self.tree()
                check_prefix(own, tree)
                raise StructureError(f"trees differ {difference(own, tree, ('the first tree', 'another'))}.")
            if frame.positions is not None:
                column = [column[position] for position in frame.positions]
            columns.append(column)
        plain = is_plain(columns)
        return tuple([Flat(column, frame, plain, tree) for column, tree in zip(columns, trees, strict=True)])

    def subtrees(self, tree: Any) -> "Flat":
        """Lay the parts of a tree beside this column that stand where this column has leaves.

        Args:
            tree: A tree of the same structure, in which each leaf is a tree of its own.

        Returns:
            A column of trees, for `map`.

        Raises:
            StructureError: the structure differs; the message names where.
        """
        frame = self.frame
        try:
            column = frame.structure.flatten_up_to(tree)
        except ValueError:
            check_prefix(self.tree(), tree)
            raise
        if frame.positions is not None:
            column = [column[position] for position in frame.positions]
        return Flat(column, frame, self.plain, tree)

    def map(self, fn: Callable[..., Any], *others: "Flat", outputs: int | None = None) -> Any:
        """Apply a function to each leaf, one by one, and to what stands beside it.

        Args:
            fn: `(leaf, *others) -> leaf`, where a leaf may be a tree, or a tuple of `outputs` of them.
            *others: Columns beside this one.
            outputs: How many columns to make; by default one, of what `fn` returns.

        Returns:
            A column, or a tuple of columns.
        """
        made = [fn(*row) for row in zip(self.leaves, *[other.leaves for other in others], strict=True)]
        plain = self.plain and all(other.plain for other in others)
        if outputs is None:
            return Flat(made, self.frame, plain)
        columns = [[row[place] for row in made] for place in range(outputs)]
        return tuple([Flat(column, self.frame, plain) for column in columns])

    def jointly(self, fn: Callable[..., Tensor], *others: "Flat") -> "Flat":
        """Apply an elementwise function to columns of 0-d tensors, each of them as one vector."""
        if not self.leaves:
            return self
        device = self.leaves[0].device
        vectors = [torch.stack([leaf.to(device) for leaf in column.leaves]) for column in (self, *others)]
        numbers = fn(*vectors).unbind()
        made = [number.to(leaf.device) for number, leaf in zip(numbers, self.leaves, strict=True)]
        return Flat(made, self.frame, self.plain and not made[0].requires_grad)

    def spread(self, values: Tensor) -> "Flat":
        """One number for each leaf of the structure, as a column of 0-d tensors of this one's dtypes and devices.

        Args:
            values: Shape `(num_leaves,)`, one entry for each leaf of the structure, absent ones included. Bools stay.

        Returns:
            A column beside this one.
        """
        return self._numbers(values, self.frame.ranks)

    def numbers(self, values: Tensor) -> "Flat":
        """One number for each leaf that is there; otherwise as `spread`.

        Args:
            values: Shape `(n,)`, one entry for each leaf of this column.

        Returns:
            A column beside this one.
        """
        return self._numbers(values, None)

    def _numbers(self, values: Tensor, places: list[int] | None) -> "Flat":
        dtypes = {torch.bool if values.dtype is torch.bool else _number_dtype(leaf.dtype) for leaf in self.leaves}
        if len(dtypes) == 1:
            (dtype,) = dtypes
            values = values.to(dtype)
        numbers = list(values.unbind())
        if places is not None:
            numbers = [numbers[place] for place in places]
        if len(dtypes) > 1:
            numbers = [number.to(_number_dtype(leaf.dtype)) for number, leaf in zip(numbers, self.leaves, strict=True)]
        if not self.on_one_device:
            numbers = [number.to(leaf.device) for number, leaf in zip(numbers, self.leaves, strict=True)]
        return Flat(numbers, self.frame, self.plain and not values.requires_grad)

    def only(self, chosen: Sequence[bool]) -> "Flat":
        """The column without the leaves that are not chosen, for arithmetic with columns of the same choice."""
        leaves = [leaf for leaf, here in zip(self.leaves, chosen, strict=True) if here]
        return Flat(leaves, self.frame, self.plain)

    def at(self, chosen: Sequence[bool], made: "Flat") -> "Flat":
        """The column with the leaves that are chosen taken from what was made of `only` them."""
        rest = iter(made.leaves)
        leaves = [next(rest) if here else leaf for leaf, here in zip(self.leaves, chosen, strict=True)]
        return Flat(leaves, self.frame, self.plain and made.plain)

    def rows(self, values: Tensor) -> list[Tensor]:
        """Of values of shape `(num_leaves, ...)`, the entry of each leaf that is there."""
        entries = list(values.unbind())
        return entries if self.frame.ranks is None else [entries[rank] for rank in self.frame.ranks]

    def paths(self) -> list[str]:
        """The path of each leaf."""
        frame = self.frame
        if frame.positions is None or not self.leaves:
            return paths(unflatten(frame.structure, self.leaves)) if self.leaves else []
        # Any leaf will do, where a number would not: torch's tracer fails on a dict of numbers inside a tree.
        every = paths(unflatten(frame.structure, self.leaves[:1] * frame.num_slots))
        return [every[position] for position in frame.positions]

    def counted(self, counts: Tensor) -> Tensor:
        """Counts of shape `(num_leaves,)`, one more for each leaf that is there."""
        if self.frame.ranks is None:
            return counts + 1
        here = set(self.frame.ranks)
        return counts + torch.tensor([rank in here for rank in range(self.frame.num_leaves)], device=counts.device)


def _number_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else wide_dtype(dtype)


def flat(*trees: Any) -> tuple[Flat, ...]:
    """Lay trees of one structure side by side, as columns of their leaves.

    A row in which any tree has `None` is left out of every column. Leaves are plain when nothing watches them: no
    `vmap` or other transform of torch.func, no tracer of Python, no graph that is to be differentiated. Plain leaves
    are computed with `torch._foreach_*`, the others one by one.

    Args:
        *trees: Trees of one structure; `None` may stand for a leaf.

    Returns:
        One column a tree.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> grads, velocity = ft.tree.flat({"w": torch.ones(2)}, {"w": torch.zeros(2)})
        >>> ft.tree.lerp(velocity, grads, 0.5).tree()
        {'w': tensor([0.5000, 0.5000])}
    """
    columns: list[list[Any]] = []
    structure: PyTreeSpec | None = None
    for tree in trees:
        column, found = flatten(tree)
        if structure is None:
            structure = found
        elif found is not structure and found != structure:
            return _without_absent(trees)
        columns.append(column)
    if structure is None:
        return ()
    frame = Frame(structure, len(columns[0]))
    plain = is_plain(columns)
    return tuple([Flat(column, frame, plain, tree) for column, tree in zip(columns, trees, strict=True)])


def _without_absent(trees: Sequence[Any]) -> tuple[Flat, ...]:
    flattened = [flatten(tree, none_is_leaf=True) for tree in trees]
    structure = flattened[0][1]
    for tree, (_, found) in zip(trees, flattened, strict=True):
        if found != structure:
            check_prefix(trees[0], tree)
            raise StructureError(f"trees differ {difference(trees[0], tree, ('the first tree', 'another'))}.")
    columns = [column for column, _ in flattened]
    rows = list(zip(*columns, strict=True))
    positions = [position for position, row in enumerate(rows) if all(leaf is not None for leaf in row)]
    some = [slot for slot, row in enumerate(rows) if any(leaf is not None for leaf in row)]
    frame = Frame(structure, len(rows), some, positions)
    present = [[column[position] for position in positions] for column in columns]
    plain = is_plain(present)
    return tuple([Flat(column, frame, plain, tree) for column, tree in zip(present, trees, strict=True)])


def is_plain(columns: Sequence[Sequence[Any]]) -> bool:
    """Whether leaves may go to `torch._foreach_*` together, and its results be written to in place.

    `vmap` has no batching rule for those, a graph that will be differentiated keeps what was computed, kernels drop the
    tangents of forward mode, and a tracer of Python fuses single operations itself.
    """
    if torch.compiler.is_compiling():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    if torch.autograd.forward_ad._current_level >= 0:
        return False
    if torch.is_grad_enabled():
        for column in columns:
            try:
                watched = any(map(_REQUIRES_GRAD, column))
            except AttributeError:  # a leaf that is not a tensor
                watched = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in column)
            if watched:
                return False
    return True
