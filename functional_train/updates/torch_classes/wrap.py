"""Optimizers written as classes of torch, as pure transformations."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.optim import Optimizer

from functional_train.updates.torch_classes._codes import encode, restore
from functional_train.updates.torch_classes._layout import Layout
from functional_train.updates.torch_classes._memory import fingerprints, memory_of
from functional_train.updates.torch_classes._trial import Maker, Source, generators, tried
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.values import tree
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.struct import static_field, struct
from functional_train.values.tree import Flat
from functional_train.values.types import Tree


@struct
class TorchClassState:
    """What an optimizer class of torch remembers between two steps.

    Attributes:
        leaves: Like params, a dict for each leaf: the class's own entries for that parameter, by name.
        shared: Entries of the parameter group, and attributes of the object, that a step writes, by name.
        codes: (num_entries,) int64, what each entry is now: not made yet, `None`, a number of some type, a tensor.
        layout: Where an object keeps the entries; static.

    Example:
        >>> import functional_train as ft, torch
        >>> state = ft.wrap_torch_optimizer(torch.optim.Adagrad, lr=0.1).init({"w": torch.ones(1)})
        >>> state.leaves
        {'w': {'step': tensor(0.), 'sum': tensor([0.])}}
    """

    leaves: Tree
    shared: dict[str, Tensor]
    codes: Tensor
    layout: Layout = static_field()


def wrap_torch_optimizer(cls: type[Optimizer], **kwargs: Any) -> GradientTransformation:
    """Make a pure transformation of any subclass of `torch.optim.Optimizer`.

    Each update makes a fresh object around copies of the parameters, gives it its memory and the gradients, lets it
    take one step, and reads what came of it. `make_update`, and so `make_step`, gives the very bits of the class.

    To learn what the class remembers, `init` lets an object take three steps on copies of the parameters with made-up
    gradients, and then describes a new one. What the class makes at its first step only is marked as not made yet.
    Numbers of Python become 0-d tensors, and numbers again when the class sees them.

    Its numbers are no schedules. One that changes is kept in the state: `ft.inject_hyperparams(make)(lr=schedule)` with
    `def make(lr: ft.Hyperparameter): return ft.wrap_torch_optimizer(cls, lr=lr)`.

    A class with a method `train` is put into training mode. One whose `step` needs a closure uses
    `grad_and_value_fn=`. One that draws from the global generators of torch, NumPy or Python needs `key=`, which seeds
    them for the step; they are put back afterwards.

    Args:
        cls: The class. It is given one group with all floating leaves, in the order of `ft.tree.leaves`.
        **kwargs: Its other arguments.

    Returns:
        Transformation with `TorchClassState`; a leaf whose gradient is `None` stays as it is.

    Raises:
        StructureError: `cls` is no such class; at `init`: it does not step on these parameters, or remembers what
            tensors cannot hold; at the update: it is traced, mapped over or differentiated, or its memory has a new
            structure.
        HyperparameterError: the class refuses its arguments; at the update: it needs a closure and there is no
            `grad_and_value_fn=`, or it draws and there is no `key=`.

    Source: torch.optim.Optimizer, whose contract this follows.

    Differs: from the class where that moves a parameter without a gradient, as `torch.optim.LBFGS` may. With
        `apply_updates` after `update` the last bit may differ too, since an update is a rounded difference.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.wrap_torch_optimizer(torch.optim.Rprop, lr=0.1)
        >>> params = {"w": torch.ones(1)}
        >>> ft.make_update(optimizer)({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([0.9000])}
    """
    return stepping(Maker(cls, kwargs))


def stepping(maker: Source) -> GradientTransformation:
    """The transformation of which each update is one step of a fresh object."""

    def init(params: Tree) -> TorchClassState:
        picks = maker.picks(params)
        picked = list(itertools.compress(tree.leaves(params), picks))
        _check_watchers(maker, tree.flat(params)[0].plain)
        if not picked:
            # Classes refuse to be made for nothing.
            return _state(params, picks, Layout(maker.name, (), closure=False), [], [], [])
        with generators(picked) as seed:
            layout, likely = tried(maker, picked, seed)
            seed(0)
            optimizer, leaves = maker.make(picked)
            codes, values = encode(layout, memory_of(optimizer, leaves))
        return _state(params, picks, layout, codes, values, likely)

    def step(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, TorchClassState]:
        check_state(state, TorchClassState)
        layout: Layout = state.layout
        _check_owner(maker, layout, p)
        assert p is not None
        params = p.tree()
        picks = maker.picks(params)
        column = _Rows(params, g.tree(), picks)
        if not column.leaves:
            return p, state
        old = values_of(state, params, picks)
        watched = any(value is not None and value.requires_grad for value in old)
        _check_watchers(maker, p.plain and g.plain and not (watched and torch.is_grad_enabled()))
        with generators(column.leaves) as seed:
            seed(0)
            optimizer, leaves = maker.make(column.leaves)
            restore(optimizer, leaves, layout, state.codes.tolist(), old)
            fixed = fingerprints(memory_of(optimizer, leaves), layout.kept)
            start = seed(_seed(extra.get("key")))
            column.fill(leaves, column.grads)
            with torch.enable_grad():
                if layout.closure:
                    optimizer.step(_closure(maker, column, leaves, params, extra))
                else:
                    optimizer.step()
            maker.advance(optimizer)
            if extra.get("key") is None and seed(None) != start:
                raise HyperparameterError(
                    f"{maker.name} draws random numbers in its step, and the update was given no key to draw from. "
                    "Pass key=, or let the state of make_step own one: init_state(..., key=ft.random.key(0))."
                )
        memory = memory_of(optimizer, leaves)
        _check_fixed(maker, fixed, fingerprints(memory, layout.kept))
        codes, values = encode(layout, memory)
        return Flat(column.moved(leaves), p.frame, p.plain), _state(params, picks, layout, codes, values, old)

    def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, TorchClassState]:
        new, state = step(g, state, p, **extra)
        assert p is not None
        return tree.sub(new, p), state

    return GradientTransformation(init, columnwise(update, step))


class _Rows:
    """The leaves of the parameters beside their gradients, of which the class sees those that are picked."""

    def __init__(self, params: Tree, grads: Tree, picks: Sequence[bool]) -> None:
        self._rows: list[tuple[Tensor, Tensor | None]] = []
        tree.map(lambda leaf, grad: self._rows.append((leaf, grad)), params, grads)
        self._picks = picks
        self.leaves = [leaf for leaf, _ in itertools.compress(self._rows, picks)]
        self.grads = [grad for _, grad in itertools.compress(self._rows, picks)]

    def beside(self, params: Tree, grads: Tree) -> "_Rows":
        """Other rows, picked alike."""
        return _Rows(params, grads, self._picks)

    def fill(self, leaves: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
        """Copy gradients to where the class looks for them, except those that were not given."""
        for leaf, given, grad in zip(leaves, self.grads, grads, strict=True):
            leaf.grad = None
            if given is not None and grad is not None and leaf.requires_grad:
                leaf.grad = grad.detach().to(leaf.dtype, copy=True)

    def tree(self, leaves: Sequence[Tensor], params: Tree) -> Tree:
        """The class's parameters where they are now, as a tree of copies."""
        now, picks = iter([leaf.detach().clone() for leaf in leaves]), iter(self._picks)
        return tree.map(lambda leaf: next(now) if next(picks) else leaf, params)

    def moved(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        """The new values of the leaves that have a gradient."""
        now = iter([leaf.detach() for leaf in leaves])
        rows = zip(self._rows, self._picks, strict=True)
        new = [(next(now) if picked else leaf, grad) for (leaf, grad), picked in rows]
        return [leaf for leaf, grad in new if grad is not None]


def _closure(maker: Source, column: _Rows, leaves: Sequence[Tensor], params: Tree, extra: Any) -> Any:
    grad_and_value_fn = extra.get("grad_and_value_fn")
    if grad_and_value_fn is None:
        raise HyperparameterError(
            f"{maker.name} computes the loss anew in its step, and the update was given no grad_and_value_fn= to do it "
            "with. make_step passes one; by hand, pass a function params -> (grads, value)."
        )

    def closure() -> Tensor:
        grads, value = grad_and_value_fn(column.tree(leaves, params))
        column.fill(leaves, column.beside(params, grads).grads)
        return value.detach().clone()

    return closure


def _seed(key: Tensor | None) -> int:
    return 0 if key is None else int(key[0]) << 32 | int(key[1])


def _state(
    params: Tree,
    picks: Sequence[bool],
    layout: Layout,
    codes: list[int],
    values: Sequence[Tensor | None],
    old: Sequence[Tensor | None],
) -> TorchClassState:
    """A state of what was encoded; what holds nothing now keeps its old tensor, so that structures stay."""
    leaves, structure = tree.flatten(params)
    shared: dict[str, Tensor] = {}
    # Of what it is not given the class knows nothing.
    dicts: list[dict[str, Tensor]] = [{} for _ in leaves]
    owners = list(itertools.compress(dicts, picks))
    for place, value, before in zip(layout.places, values, old, strict=True):
        kept = before if value is None else value
        if kept is not None:
            (owners[place.owner[1]] if place.owner[0] == "leaf" else shared)[place.name] = kept
    return TorchClassState(tree.unflatten(structure, dicts), shared, torch.tensor(codes, dtype=torch.int64), layout)


def values_of(state: TorchClassState, params: Tree, picks: Sequence[bool]) -> list[Tensor | None]:
    """The tensors of a state, one for each place of its layout."""
    dicts: list[dict[str, Tensor]] = []
    tree.map(lambda leaf, mine: dicts.append(mine), params, state.leaves)
    owners = list(itertools.compress(dicts, picks))
    return [
        (owners[place.owner[1]] if place.owner[0] == "leaf" else state.shared).get(place.name)
        for place in state.layout.places
    ]


def _check_owner(maker: Source, layout: Layout, p: Flat | None) -> None:
    if layout.maker != maker.name:
        raise StructureError(
            f"{maker.name} was given a state of {layout.maker}. The optimizer state was made by another optimizer: "
            "call optimizer.init(params)."
        )
    if p is None:
        raise StructureError(f"{maker.name} moves parameters, and the update was given none. Pass params.")


def _check_watchers(maker: Source, plain: bool) -> None:
    if not plain or get_proxy_mode() is not None:
        raise StructureError(
            f"{maker.name} is a class that writes into real tensors: its update cannot be traced, mapped over by vmap "
            "or differentiated. Use the function of this library with the same rule, as ft.adamw for "
            "torch.optim.AdamW. If nothing of this was meant, the parameters or gradients require grad: detach them, "
            "as ft.functionalize does."
        )


def _check_fixed(maker: Source, before: dict[Any, Any], after: dict[Any, Any]) -> None:
    changed = [entry for entry in {**before, **after} if before.get(entry) != after.get(entry)]
    if changed:
        (kind, number), key = changed[0]
        holder = f"group {number}" if kind == "group" else "the object"
        raise StructureError(
            f"{maker.name} changed {key!r} of {holder}, which it had not in the steps that init tries, so that the "
            "state has no place for it. The structure of a state is fixed when it is made; this class changes its own "
            "on the way and cannot be wrapped."
        )
