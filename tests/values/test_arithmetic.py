"""Arithmetic over whole trees is torch's, leaf by leaf, on every path that it may take."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train import testing
from functional_train.values import tree
from tests.profiles import examples

Op = Callable[..., Any]
SOME, FEW = settings(max_examples=examples(15)), settings(max_examples=examples(10))
HALF = torch.tensor(0.5, dtype=torch.float64)
LOW = (torch.bfloat16, torch.float16)


class Case(NamedTuple):
    """An operation on three trees, and the same on three leaves."""

    ours: Op
    theirs: Op


# Denominators are squares plus one, and roots are taken of squares, so that every number is finite.
CASES: dict[str, Case] = {
    "add": Case(lambda a, b, c: tree.add(a, b), lambda a, b, c: a + b),
    "add number": Case(lambda a, b, c: tree.add(a, 2.5), lambda a, b, c: a + 2.5),
    "add tensor": Case(lambda a, b, c: tree.add(a, HALF, alpha=3), lambda a, b, c: a + 1.5),
    "add alpha": Case(lambda a, b, c: tree.add(a, b, alpha=-0.5), lambda a, b, c: a - 0.5 * b),
    "add alpha tensor": Case(lambda a, b, c: tree.add(a, b, alpha=HALF), lambda a, b, c: a + 0.5 * b),
    "sub": Case(lambda a, b, c: tree.sub(a, b), lambda a, b, c: a - b),
    "sub number": Case(lambda a, b, c: tree.sub(a, 2.5), lambda a, b, c: a - 2.5),
    "sub alpha": Case(lambda a, b, c: tree.sub(a, b, alpha=3), lambda a, b, c: a - 3 * b),
    "sub alpha tensor": Case(lambda a, b, c: tree.sub(a, b, alpha=HALF), lambda a, b, c: a - 0.5 * b),
    "mul": Case(lambda a, b, c: tree.mul(a, b), lambda a, b, c: a * b),
    "div": Case(
        lambda a, b, c: tree.div(a, tree.add(tree.mul(b, b), 1)),
        lambda a, b, c: a / (b * b + 1),
    ),
    "scale": Case(lambda a, b, c: tree.scale(-0.5, a), lambda a, b, c: -0.5 * a),
    "scale tensor": Case(lambda a, b, c: tree.scale(HALF, a), lambda a, b, c: 0.5 * a),
    "lerp": Case(lambda a, b, c: tree.lerp(a, b, 0.25), lambda a, b, c: a + 0.25 * (b - a)),
    "lerp tensor": Case(lambda a, b, c: tree.lerp(a, b, HALF), lambda a, b, c: a + 0.5 * (b - a)),
    "addcmul": Case(tree.addcmul, lambda a, b, c: a + b * c),
    "addcmul decay": Case(
        lambda a, b, c: tree.addcmul(a, b, c, 0.1, decay=0.9), lambda a, b, c: 0.9 * a + 0.1 * (b * c)
    ),
    "addcmul tensors": Case(
        lambda a, b, c: tree.addcmul(a, b, c, HALF, decay=1 - HALF), lambda a, b, c: 0.5 * a + 0.5 * (b * c)
    ),
    "addcdiv": Case(
        lambda a, b, c: tree.addcdiv(a, b, tree.add(tree.mul(c, c), 1), -0.1),
        lambda a, b, c: a - 0.1 * (b / (c * c + 1)),
    ),
    "addcdiv tensor": Case(
        lambda a, b, c: tree.addcdiv(a, b, tree.add(tree.mul(c, c), 1), HALF),
        lambda a, b, c: a + 0.5 * (b / (c * c + 1)),
    ),
    "sqrt": Case(lambda a, b, c: tree.sqrt(tree.mul(a, a)), lambda a, b, c: a.abs()),
    "sqrt shifted": Case(
        lambda a, b, c: tree.sqrt(tree.mul(a, a), factor=3, shift=0.5), lambda a, b, c: 3 * a.abs() + 0.5
    ),
    "sqrt tensors": Case(
        lambda a, b, c: tree.sqrt(tree.mul(a, a), factor=HALF, shift=HALF), lambda a, b, c: 0.5 * a.abs() + 0.5
    ),
    "maximum": Case(lambda a, b, c: tree.maximum(a, b), lambda a, b, c: torch.maximum(a, b)),
    "minimum": Case(lambda a, b, c: tree.minimum(a, b), lambda a, b, c: torch.minimum(a, b)),
    "maximum number": Case(lambda a, b, c: tree.maximum(a, 0.5), lambda a, b, c: a.clamp(min=0.5)),
    "maximum tensor": Case(lambda a, b, c: tree.maximum(a, HALF), lambda a, b, c: a.clamp(min=0.5)),
    "minimum number": Case(lambda a, b, c: tree.minimum(a, 0.5), lambda a, b, c: a.clamp(max=0.5)),
    "minimum tensor": Case(lambda a, b, c: tree.minimum(a, HALF), lambda a, b, c: a.clamp(max=0.5)),
    "sign": Case(lambda a, b, c: tree.sign(a), lambda a, b, c: a.sign()),
    "abs": Case(lambda a, b, c: tree.abs(a), lambda a, b, c: a.abs()),
    "clamp": Case(lambda a, b, c: tree.clamp(a, -0.5, 2), lambda a, b, c: a.clamp(-0.5, 2)),
    "clamp tensor": Case(lambda a, b, c: tree.clamp(a, -HALF, 2), lambda a, b, c: a.clamp(-0.5, 2)),
    "div_sqrt": Case(
        lambda a, b, c: tree.div_sqrt(a, tree.mul(b, b), factor=3, outside=1), lambda a, b, c: a / (3 * b.abs() + 1)
    ),
    "div_sqrt tensors": Case(
        lambda a, b, c: tree.div_sqrt(a, tree.mul(b, b), inside=HALF, outside=HALF),
        lambda a, b, c: a / ((b * b + 0.5).sqrt() + 0.5),
    ),
    "where": Case(
        lambda a, b, c: tree.where(tree.map(lambda leaf: leaf > 0, c), a, b),
        lambda a, b, c: torch.where(c > 0, a, b),
    ),
    "where scalar": Case(lambda a, b, c: tree.where(torch.tensor(False), a, b), lambda a, b, c: b),
    "where number": Case(lambda a, b, c: tree.where(torch.tensor(False), a, 2), lambda a, b, c: torch.full_like(a, 2)),
    "where or number": Case(
        lambda a, b, c: tree.where(tree.map(lambda leaf: leaf > 0, b), a, 0.5),
        lambda a, b, c: torch.where(b > 0, a, 0.5),
    ),
}
OF_ONE = {"scale", "sqrt", "sign", "abs", "clamp"}
ONE_TREE = {f"{word} {kind}" for word in ("add", "sub", "maximum", "minimum") for kind in ("number", "tensor")} | {
    "where number"
}
OF_TWO = {"add", "sub", "mul", "div", "lerp", "maximum", "minimum", "div_sqrt"}
each_case = pytest.mark.parametrize("name", CASES)
# Operations take one to five roundings of numbers up to 10 * 10 + 10.
CLOSE = {"rtol": 1e-14, "atol": 1e-13}


@st.composite
def triples(draw: st.DrawFn, dtype: torch.dtype | None = None) -> tuple[Any, Any, Any]:
    """Three trees of one structure, shape and dtypes."""
    params = draw(testing.params(dtype=dtype).filter(lambda p: all(x.is_floating_point() for x in tree.leaves(p))))
    first, second = draw(testing.batches(params, min_size=2, max_size=2))
    return params, first, second


def reference(case: Case, trees: Any) -> Any:
    return tree.map(case.theirs, *trees)


@each_case
@given(trees=triples(torch.float64))
@SOME
def test_equals_torch_on_each_leaf(name: str, trees: Any) -> None:
    """In float64 the result is torch's formula on every leaf, up to rounding, and no input is touched."""
    result = testing.assert_untouched(CASES[name].ours, *trees)
    testing.assert_trees_close(result, reference(CASES[name], trees), **CLOSE)


@each_case
@given(trees=triples())
@SOME
def test_keeps_structure_shape_and_dtype(name: str, trees: Any) -> None:
    """Mixed dtypes included, the result is like the first tree, also beside wider trees, and inputs are untouched."""
    result = testing.assert_untouched(CASES[name].ours, *trees)
    testing.assert_trees_alike(result, trees[0])
    first, *others = trees
    wide = CASES[name].ours(first, *(tree.to(other, torch.float64) for other in others))
    testing.assert_trees_alike(wide, first)


@each_case
@given(trees=triples(torch.float64))
@FEW
def test_batched_and_watched_leaves_take_another_path_to_the_same_numbers(name: str, trees: Any) -> None:
    """Under vmap, and where a graph is recorded, leaves are computed one by one, to the same numbers."""
    ours = CASES[name].ours
    expected = ours(*trees)
    watched = ours(*(tree.map(lambda leaf: leaf.clone().requires_grad_(), each) for each in trees))
    testing.assert_trees_close(watched, expected, **CLOSE)
    members = [trees, [tree.scale(-2, each) for each in trees]]
    leaves, structure = tree.flatten(tree.stack([list(member) for member in members]))
    if leaves:
        mapped = torch.func.vmap(lambda *flat: tree.leaves(ours(*tree.unflatten(structure, flat))))(*leaves)
        for position, member in enumerate(members):
            testing.assert_trees_close([leaf[position] for leaf in mapped], tree.leaves(ours(*member)), **CLOSE)


@each_case
@given(trees=triples(torch.float64), data=st.data())
@FEW
def test_none_absorbs(name: str, trees: Any, data: st.DataObject) -> None:
    """Where any tree has None the result has None, and the other leaves are as before."""
    paths = tree.paths(trees[0])
    gone = [data.draw(st.sets(st.sampled_from(paths))) if paths else set() for _ in trees]
    rows = list(zip(trees, gone, strict=True))
    with_none = [tree.partition(each, lambda path, _, lost=lost: path in lost)[1] for each, lost in rows]
    word = name.split(maxsplit=1)[0]
    used = 1 if word in OF_ONE else 2 if word in OF_TWO else 3
    used = 1 if name in ONE_TREE else used
    used = 2 if name in {"where scalar", "where or number"} else used
    lost = set().union(*gone[:used])
    result = CASES[name].ours(*with_none)
    expected = tree.partition(CASES[name].ours(*trees), lambda path, _: path in lost)[1]
    testing.assert_trees_close(result, expected, **CLOSE)


@given(triples(), st.sampled_from(("add", "lerp tensor", "addcmul tensors", "sqrt tensors", "scale tensor")))
def test_low_precision_is_computed_wide(trees: Any, name: str) -> None:
    """With a tensor as scalar, 16-bit leaves are computed in float32 and rounded once."""
    low = [tree.to(each, torch.bfloat16) for each in trees]
    wide = [tree.to(each, torch.float32) for each in low]
    if name == "sqrt tensors":
        squares = tree.mul(low[0], low[0])
        result = tree.sqrt(squares, factor=HALF, shift=HALF)
        expected = tree.map(lambda leaf: (0.5 * leaf.float().sqrt() + 0.5).bfloat16(), squares)
    else:
        result, expected = CASES[name].ours(*low), tree.to(reference(CASES[name], wide), torch.bfloat16)
    # lerp rounds float32 in another order, which moves a bfloat16 by one unit in the last place at most.
    testing.assert_trees_close(result, expected, rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("name", ["add", "add alpha", "mul", "scale", "lerp", "addcmul", "sub"])
@given(trees=testing.params(dtype=torch.complex128))
@FEW
def test_complex_leaves(name: str, trees: Any) -> None:
    """Complex leaves obey the same formulas."""
    three = (trees, tree.scale(1j, trees), tree.add(trees, 1 - 1j))
    testing.assert_trees_close(CASES[name].ours(*three), reference(CASES[name], three), rtol=1e-13, atol=1e-12)


@each_case
def test_misfits_are_named(name: str) -> None:
    """Trees of other structures raise StructureError with the place, where the operation takes more than one."""
    one, other = {"a": torch.ones(2), "b": torch.ones(2)}, {"a": torch.ones(2)}
    if name.split(maxsplit=1)[0] in OF_ONE or name in ONE_TREE:
        return
    with pytest.raises(ft.StructureError, match="at 'b'"):
        CASES[name].ours(one, other, one)


@given(testing.params().filter(lambda p: all(x.is_floating_point() for x in tree.leaves(p))), st.data())
def test_norm_and_inner_product_of_flattened_trees(params: Any, data: st.DataObject) -> None:
    """`global_norm` and `vdot` are those of one long vector, in float32 at least; empty trees count as zero."""
    (other,) = data.draw(testing.batches(params, min_size=1, max_size=1))
    vector, second = (ft.tree.ravel(tree.to(each, torch.float64))[0].double() for each in (params, other))
    norm = tree.global_norm(params)
    assert norm.dtype in (torch.float32, torch.float64)
    # One float32 rounding a leaf and a few for the sum; squares below 1e-38 vanish.
    torch.testing.assert_close(norm.double(), vector.norm(), rtol=1e-6, atol=1e-18)
    product = tree.vdot(tree.to(params, torch.float64), tree.to(other, torch.float64))
    torch.testing.assert_close(product.double(), torch.dot(vector, second), rtol=1e-12, atol=1e-10)
    assert product.ndim == norm.ndim == 0


@given(testing.params(dtype=torch.complex128), st.data())
def test_norm_and_inner_product_of_complex_trees(params: Any, data: st.DataObject) -> None:
    """The norm is real; the inner product conjugates its first tree, and with itself is the square of the norm."""
    (other,) = data.draw(testing.batches(params, min_size=1, max_size=1))
    vector, second = (torch.cat([torch.zeros(0, dtype=torch.complex128), ravel(each)]) for each in (params, other))
    norm = tree.global_norm(params)
    assert not norm.is_complex()
    torch.testing.assert_close(norm.double(), vector.norm(), rtol=1e-12, atol=1e-300)
    product = tree.vdot(params, other)
    torch.testing.assert_close(product.to(torch.complex128), torch.vdot(vector, second), rtol=1e-12, atol=1e-10)
    own = tree.vdot(params, params).to(torch.complex128)
    torch.testing.assert_close(own.real, norm.double() ** 2, rtol=1e-12, atol=1e-10)


def ravel(each: Any) -> Tensor:
    return ft.tree.ravel(each)[0].to(torch.complex128)


def test_sums_of_low_precision_are_wide() -> None:
    """A norm of many 16-bit numbers neither stalls nor overflows."""
    for dtype in LOW:
        ones = {"w": torch.full((10_000,), 3.0, dtype=dtype)}
        assert tree.global_norm(ones) == 300.0
    assert tree.global_norm({"w": torch.tensor([300.0, 400.0], dtype=torch.float16)}) == 500.0
    assert tree.global_norm({"w": None}) == 0
    assert tree.vdot({}, {}) == 0


@pytest.mark.parametrize("dtype", LOW)
def test_small_shifts_are_not_lost_in_low_precision(dtype: torch.dtype) -> None:
    """`div_sqrt` of 16-bit zeros with a shift that their dtype cannot hold is zero and not nan."""
    zeros = {"w": torch.zeros(2, dtype=dtype)}
    testing.assert_trees_equal(tree.div_sqrt(zeros, zeros, outside=1e-8), zeros)
    testing.assert_trees_equal(tree.div_sqrt(zeros, zeros, inside=1e-16), zeros)


@pytest.mark.parametrize("dtype", LOW)
def test_low_precision_beside_a_wide_tree_is_computed_wide(dtype: torch.dtype) -> None:
    """Where only the second tree has 16 bits, a tensor scalar is not rounded to them, nor is what it is a factor of."""
    wide, low = {"w": torch.zeros(2)}, {"w": torch.full((2,), 3.0, dtype=dtype)}
    third = torch.tensor(1 / 3)
    testing.assert_trees_equal(tree.add(wide, low, alpha=third), {"w": 3.0 * third.expand(2)})
    testing.assert_trees_equal(tree.addcmul(wide, low, low, third), {"w": third * torch.full((2,), 9.0)})
    roots = tree.div_sqrt({"w": torch.ones(2)}, low)
    testing.assert_trees_equal(roots, {"w": 1 / torch.full((2,), 3.0).sqrt()})


def test_slopes_of_norm_and_root_at_zero_are_zero() -> None:
    """A vanishing gradient does not make nan of the derivative of a norm or a root."""
    zeros = {"w": torch.zeros(2, dtype=torch.float64)}
    for fn in (tree.global_norm, lambda p: tree.sqrt(p, factor=2, shift=1)["w"].sum()):
        testing.assert_trees_equal(torch.func.grad(fn)(zeros), zeros)


def test_what_is_not_chosen_has_no_influence() -> None:
    """`where` keeps nan out, also out of derivatives; `maximum` lets it win."""
    nan = {"w": torch.tensor([torch.nan, 1.0])}
    ones = {"w": torch.ones(2)}
    chosen = tree.where({"w": torch.tensor([False, True])}, nan, ones)
    testing.assert_trees_equal(chosen, ones)
    slope = torch.func.grad(lambda p: tree.where(torch.tensor(False), nan, p)["w"].sum())(ones)
    testing.assert_trees_equal(slope, ones)
    assert tree.maximum(ones, nan)["w"][0].isnan()


def test_the_default_device_has_no_part_in_it() -> None:
    """Numbers meet leaves where these are, whatever device new tensors of the user's go to."""
    ones = {"w": torch.ones(2)}
    with torch.device("meta"):
        made = tree.scale(0.5, ones), tree.sqrt(ones, factor=0.5), tree.addcmul(ones, ones, ones, decay=0.5)
    testing.assert_trees_equal(made, tuple({"w": torch.full((2,), number)} for number in (0.5, 0.5, 1.5)))
