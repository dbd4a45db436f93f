"""Columns are trees laid side by side: the same arithmetic, absent leaves left out, nothing held written to."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train import testing
from functional_train.values import tree
from functional_train.values.tree import Flat
from tests.profiles import examples

SOME = settings(max_examples=examples(30))


@given(testing.params_and_grads())
def test_columns_are_the_leaves_that_all_trees_have(drawn: Any) -> None:
    """A row in which any tree has None is in no column; each column gives back its tree, or fills it."""
    params, grads = drawn
    p, g = tree.flat(params, grads)
    rows: list[Any] = []
    tree.map(lambda *row: rows.append(row), params, grads)
    testing.assert_trees_equal(g.leaves, [grad for _, grad in rows if grad is not None])
    assert all(
        one is other for one, other in zip(p.leaves, [leaf for leaf, grad in rows if grad is not None], strict=True)
    )
    assert p.tree() is params
    assert g.tree() is grads
    computed = tree.scale(1, g)
    testing.assert_trees_equal(computed.tree(), grads)
    filled = tree.scale(1, g).tree(absent=params)
    expected = tree.map(lambda leaf, grad: leaf if grad is None else grad, params, grads)
    testing.assert_trees_equal(filled, expected)


@given(testing.params_and_grads())
def test_counts_and_numbers_are_one_a_leaf(drawn: Any) -> None:
    """`spread` gives each leaf that is there its own number, and `counted` counts those, whatever else is None."""
    params, grads = drawn
    p, g = tree.flat(params, grads)
    num_leaves = len(tree.leaves(params))
    rows: list[Any] = []
    tree.map(lambda _, grad: rows.append(grad is not None), params, grads)
    assert g.counted(torch.zeros(num_leaves, dtype=torch.int64)).tolist() == [int(here) for here in rows]
    values = torch.arange(1.0, num_leaves + 1, dtype=torch.float64)
    spread = g.spread(values)
    assert [float(number) for number in spread.leaves] == [rank for rank, here in enumerate(rows, start=1) if here]
    wide = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
    assert [n.dtype for n in spread.leaves] == [wide.get(leaf.dtype, leaf.dtype) for leaf in g.leaves]
    flags = g.spread(values % 2 == 0).leaves
    assert [flag.item() for flag in flags] == [float(number) % 2 == 0 for number in spread.leaves]
    scaled = tree.scale(spread, g).tree()
    expected = [grad * number.to(grad.dtype) for grad, number in zip(g.leaves, spread.leaves, strict=True)]
    testing.assert_trees_alike(scaled, grads)
    testing.assert_trees_close(tree.leaves(scaled), expected, rtol=2**-7)
    testing.assert_trees_equal(tree.leaves(p.tree()), tree.leaves(params))
    here = [path for path, there in zip(tree.paths(params), rows, strict=True) if there]
    assert p.paths() == here
    assert g.paths() == here


@given(testing.params_and_grads())
def test_more_trees_are_laid_beside(drawn: Any) -> None:
    """A tree like the parameters gives the column of the leaves that are there, and keeps the others as `absent`."""
    params, grads = drawn
    _, g = tree.flat(params, grads)
    state = tree.copy(params)
    (beside,) = g.beside(state)
    testing.assert_trees_alike([leaf.shape for leaf in beside.leaves], [leaf.shape for leaf in g.leaves])
    moved = tree.add(beside, g).tree(absent=state)
    expected = tree.map(lambda leaf, grad: leaf if grad is None else leaf + grad, params, grads)
    testing.assert_trees_equal(moved, expected)


def test_what_does_not_fit_is_named() -> None:
    """Trees of another structure, and columns of another call, are refused with the place or the way out."""
    one = {"a": torch.ones(2), "b": torch.ones(2)}
    (column,) = tree.flat(one)
    with pytest.raises(ft.StructureError, match="at 'b': the first tree has it, another does not"):
        column.beside({"a": torch.ones(2)})
    with pytest.raises(ft.StructureError, match="at 'b': the first tree has it, another does not"):
        tree.flat(one, {"a": None})
    with pytest.raises(ft.StructureError, match=r"columns of different flat.* calls cannot meet"):
        tree.add(column, tree.flat(one)[0])
    assert tree.flat() == ()


OPERATIONS: list[Callable[[Flat, Flat, Flat], Flat]] = [
    lambda a, b, c: tree.add(a, b),
    lambda a, b, c: tree.add(a, b, alpha=0.5),
    lambda a, b, c: tree.add(a, 1.0),
    lambda a, b, c: tree.sub(a, b, alpha=2),
    lambda a, b, c: tree.scale(0.5, a),
    lambda a, b, c: tree.scale(torch.tensor(0.5), a),
    lambda a, b, c: tree.mul(a, b),
    lambda a, b, c: tree.lerp(a, b, 0.1),
    lambda a, b, c: tree.addcmul(a, b, c, 0.1, decay=0.9),
    # A column that is spent is the first operand of one operation, and `addcmul` writes into none.
    lambda a, b, c: tree.addcdiv(a, b, tree.add(tree.addcmul(c, c, c, decay=0), 1), 0.1),
    lambda a, b, c: tree.sqrt(tree.mul(a, a), shift=0.1),
    lambda a, b, c: tree.maximum(a, b),
    lambda a, b, c: tree.minimum(a, 0.5),
    lambda a, b, c: tree.maximum(a, torch.tensor(0.5)),
    lambda a, b, c: tree.sign(a),
    lambda a, b, c: tree.div(tree.addcmul(a, b, c), tree.add(tree.addcmul(c, c, c, decay=0), 1)),
]


def run(program: list[tuple[int, int, int, int]], columns: list[Flat]) -> list[Flat]:
    made = list(columns)
    for operation, *operands in program:
        made.append(OPERATIONS[operation](*(made[place % len(made)] for place in operands)))
    return made


PROGRAMS = st.lists(
    st.tuples(st.integers(0, len(OPERATIONS) - 1), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=5,
)


@SOME
@given(testing.params(), st.data(), PROGRAMS)
def test_arithmetic_over_columns_is_arithmetic_over_trees(params: Any, data: st.DataObject, program: Any) -> None:
    """A run of operations gives the same bits over columns as over trees, and leaves the trees alone."""
    params = tree.map(lambda leaf: leaf.double() if not leaf.is_floating_point() else leaf, params)
    (other,) = data.draw(testing.batches(params, min_size=1, max_size=1))
    columns = testing.assert_untouched(lambda *trees: run(program, list(tree.flat(*trees))), params, other)
    expected = testing.assert_untouched(lambda *trees: run(program, list(trees)), params, other)
    testing.assert_trees_equal([column.tree() for column in columns], expected)


@SOME
@given(testing.params(min_leaves=1), st.data())
def test_spending_never_changes_what_is_held(params: Any, data: st.DataObject) -> None:
    """Whatever is spent in whatever order, trees handed in or out and columns not spent keep their bits."""
    params = tree.map(lambda leaf: leaf.double() if not leaf.is_floating_point() else leaf, params)
    (other,) = data.draw(testing.batches(params, min_size=1, max_size=1))
    live: list[Flat] = list(tree.flat(params, other))
    handed_out: list[Any] = [params, other]
    operations = st.integers(0, len(OPERATIONS) - 1)
    for _ in range(data.draw(st.integers(1, 6))):
        places = [data.draw(st.integers(0, len(live) - 1)) for _ in range(3)]
        operands = [live[place] for place in places]
        spends = data.draw(st.booleans())
        if data.draw(st.booleans()):
            handed_out.append(operands[0].tree())
        kept = [column for place, column in enumerate(live) if not (spends and column is operands[0])]
        before = tree.copy([handed_out, [column.leaves for column in kept]])
        expected = OPERATIONS[data.draw(operations)]
        plain = expected(*(Flat(list(column.leaves), column.frame, column.plain) for column in operands)).leaves
        operands[0] = operands[0].spend() if spends else operands[0]
        made = expected(*operands)
        testing.assert_trees_equal([handed_out, [column.leaves for column in kept]], before)
        testing.assert_trees_equal(made.leaves, plain)
        live = [*kept, made]


def test_only_fresh_plain_columns_are_written_into() -> None:
    """A column of a tree, one that was handed out, and one that is watched are never written into."""
    leaf = torch.ones(2)
    (given,) = tree.flat([leaf])
    assert tree.scale(2, given.spend()).leaves[0] is not leaf
    fresh = tree.scale(2, tree.flat([leaf])[0])
    memory = fresh.leaves[0].data_ptr()
    assert tree.scale(3, fresh.spend()).leaves[0].data_ptr() == memory
    shown = tree.scale(2, tree.flat([leaf])[0])
    (held,) = shown.tree()
    assert tree.scale(3, shown.spend()).leaves[0].data_ptr() != held.data_ptr()
    watched = tree.scale(2, tree.flat([leaf.clone().requires_grad_()])[0])
    before = watched.leaves[0].clone()
    tree.scale(3, watched.spend())
    testing.assert_trees_equal(watched.leaves[0].detach(), before.detach())


def is_plain(leaf: Tensor) -> bool:
    return tree.flat([leaf])[0].plain


def test_what_is_plain() -> None:
    """Leaves are plain outside transforms, unless a graph is recorded from them."""
    leaf = torch.ones(2)
    watched = torch.ones(2, requires_grad=True)
    assert is_plain(leaf)
    assert not is_plain(watched)
    with torch.no_grad():
        assert is_plain(watched)
    seen: list[bool] = []
    torch.func.vmap(lambda x: (seen.append(is_plain(x)), x)[1])(leaf)
    torch.func.grad(lambda x: (seen.append(is_plain(x)), x.sum())[1])(leaf)
    assert seen == [False, False]


@given(testing.params_and_grads())
def test_map_goes_leaf_by_leaf_beside_subtrees(drawn: Any) -> None:
    """`map` sees each leaf that is there with its part of a finer tree, and columns of parts fill such a tree."""
    params, grads = drawn
    finer = tree.map(lambda leaf: (leaf, {"size": torch.tensor(leaf.numel())}), params)
    p, g = tree.flat(params, grads)
    parts = g.subtrees(finer)
    sums, sizes = p.map(
        lambda leaf, grad, part: (leaf + grad, (part[0], {"size": part[1]["size"] + 1})), g, parts, outputs=2
    )
    rows: list[Any] = []
    tree.map(lambda leaf, grad: rows.append((leaf, grad)), params, grads)
    testing.assert_trees_equal(sums.leaves, [leaf + grad for leaf, grad in rows if grad is not None])
    filled = sizes.tree(absent=finer)
    testing.assert_same_structure(filled, finer)
    counts = [size for path, size in tree.items(filled) if path.endswith("size")]
    assert [int(size) for size in counts] == [leaf.numel() + (grad is not None) for leaf, grad in rows]
    testing.assert_trees_equal(p.map(lambda leaf: leaf).leaves, p.leaves)


def test_subtrees_that_do_not_fit_are_named() -> None:
    """A tree without a part where the column has a leaf is an error that says where."""
    (column,) = tree.flat({"a": torch.ones(1), "b": torch.ones(1)})
    with pytest.raises(ft.StructureError, match="at 'b'"):
        column.subtrees({"a": ()})


@given(testing.params_and_grads())
def test_numbers_of_leaves_are_computed_together(drawn: Any) -> None:
    """`norms` and `rms` give each leaf its own, over trees and columns, and `jointly` takes them as one vector."""
    params, _ = drawn
    (p,) = tree.flat(params)
    wide = [leaf.to(torch.complex128 if leaf.is_complex() else torch.float64) for leaf in p.leaves]
    sizes = [torch.linalg.vector_norm(leaf) for leaf in wide]
    means = [size / max(leaf.numel(), 1) ** 0.5 for size, leaf in zip(sizes, wide, strict=True)]
    for fn, expected in ((tree.norms, sizes), (tree.rms, means)):
        testing.assert_trees_equal(tree.leaves(fn(params)), fn(p).leaves)
        for one, other in zip(fn(p).leaves, expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)
        doubled = fn(p).jointly(lambda numbers: 2 * numbers)
        for one, other in zip(doubled.leaves, fn(p).leaves, strict=True):
            torch.testing.assert_close(one, 2 * other, check_dtype=False)
