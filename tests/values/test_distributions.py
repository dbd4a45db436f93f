"""Draws of events, whole numbers, categories and elements, and of laws with tails: the right distributions."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import functional_train as ft
from functional_train.values import random
from functional_train.values.errors import HyperparameterError, PurityError, StructureError
from tests.values.draws import DTYPES, LEVEL, assert_same, keys, words_are

KEY = random.key(0)


def assert_counts(drawn: Tensor, probabilities: list[float]) -> None:
    """A chi-square test of values 0, 1, ..., where none of probability zero may occur."""
    counts = torch.bincount(drawn.flatten(), minlength=len(probabilities)).tolist()
    assert len(counts) == len(probabilities)
    expected = [p * drawn.numel() for p in probabilities]
    assert all(count == 0 for count, p in zip(counts, probabilities, strict=True) if p == 0)
    pairs = [(count, number) for count, number in zip(counts, expected, strict=True) if number]
    assert len(pairs) == 1 or stats.chisquare(*zip(*pairs, strict=True)).pvalue > LEVEL


LAWS: dict[str, tuple[Callable[..., Tensor], Any]] = {
    "exponential": (lambda key, **kw: random.exponential(key, (100_000,), rate=2.0, **kw), stats.expon(scale=0.5)),
    "gumbel": (lambda key, **kw: random.gumbel(key, (100_000,), **kw), stats.gumbel_r()),
    "truncated": (lambda key, **kw: random.truncated_normal(key, (100_000,), **kw), stats.truncnorm(-2, 2)),
    "one side": (
        lambda key, **kw: random.truncated_normal(key, (100_000,), low=1.0, high=9.0, mean=2.0, std=4.0, **kw),
        stats.truncnorm(-0.25, 1.75, loc=2.0, scale=4.0),
    ),
    "right tail": (
        lambda key, **kw: random.truncated_normal(key, (100_000,), low=8.0, high=12.0, **kw),
        stats.truncnorm(8, 12),
    ),
    "left tail": (
        lambda key, **kw: random.truncated_normal(key, (100_000,), low=-31.0, high=-30.0, **kw),
        stats.truncnorm(-31, -30),
    ),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_continuous_draws_follow_their_laws(name: str, dtype: torch.dtype) -> None:
    """A Kolmogorov-Smirnov test against scipy, far into the tails too."""
    draw, law = LAWS[name]
    drawn = draw(random.key(21), dtype=dtype)
    assert drawn.dtype is dtype
    assert stats.kstest(drawn.double().numpy(), law.cdf).pvalue > LEVEL


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_words_give_finite_draws(dtype: torch.dtype) -> None:
    """Words of all zeros and all ones: waiting times above zero, finite Gumbels, truncated normals within bounds."""
    for word in (0, 1, 2**31, 2**32 - 1):
        with words_are((word, word)):
            waiting = random.exponential(KEY, (2,), dtype=dtype)
            assert (waiting.isfinite() & (waiting > 0)).all() or dtype is torch.float16
            assert random.gumbel(KEY, (2,), dtype=dtype).isfinite().all()
            truncated = random.truncated_normal(KEY, (2,), low=-1.5, high=0.25, dtype=dtype)
            assert ((truncated >= -1.5) & (truncated <= 0.25)).all()


@given(keys(), st.floats(-30, 30), st.floats(0.015625, 8), st.sampled_from(DTYPES[:2]))
def test_truncated_normals_stay_within_bounds(key: Tensor, low: float, width: float, dtype: torch.dtype) -> None:
    """Wherever the bounds lie, numbers or tensors, to the last bit."""
    bounds = torch.tensor([low, low + width], dtype=dtype)
    expected = random.truncated_normal(key, (50,), low=bounds[0], high=bounds[1], dtype=dtype)
    assert ((bounds[0] <= expected) & (expected <= bounds[1])).all()
    numbers = random.truncated_normal(key, (50,), low=bounds[0].item(), high=bounds[1].item(), dtype=dtype)
    assert_same(numbers, expected)


def test_truncated_normals_are_differentiable() -> None:
    """In all four parameters, by finite differences."""
    parameters = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (-1.0, 2.0, 0.3, 1.5)]

    def draw(low: Tensor, high: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        return random.truncated_normal(KEY, (5,), low=low, high=high, mean=mean, std=std, dtype=torch.float64)

    assert torch.autograd.gradcheck(draw, parameters)


@pytest.mark.parametrize("p", [0.0, 0.03, 0.5, 0.9, 1.0])
def test_events_happen_as_often_as_they_should(p: float) -> None:
    """With numbers and tensors for probabilities, the same events; with 0 none, with 1 all."""
    drawn = random.bernoulli(random.key(22), (100_000,), p=p)
    assert drawn.dtype is torch.bool
    assert_counts(drawn.long(), [1 - p, p])
    assert_same(random.bernoulli(random.key(22), (100_000,), p=torch.tensor(p, dtype=torch.float64)), drawn)


@pytest.mark.parametrize(("low", "high"), [(0, 7), (-3, 4), (2**40, 2**40 + 5)])
def test_whole_numbers_are_equally_likely(low: int, high: int) -> None:
    """With numbers and tensors for bounds, the same draws."""
    drawn = random.randint(random.key(23), (50_000,), low=low, high=high)
    assert_counts(drawn - low, [1 / (high - low)] * (high - low))
    as_tensors = random.randint(random.key(23), (50_000,), low=torch.tensor(low), high=torch.tensor(high))
    assert_same(as_tensors, drawn)


@given(keys(), st.integers(-(2**62), 2**62), st.integers(1, 2**63 - 1))
def test_whole_numbers_lie_within_bounds(key: Tensor, low: int, span: int) -> None:
    """Wherever 64 bits can hold them."""
    high = min(low + span, 2**63 - 1)
    drawn = random.randint(key, (20,), low=low, high=high)
    assert all(low <= number < high for number in drawn.tolist())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_categories_follow_the_softmax(dtype: torch.dtype) -> None:
    """Along any dimension; -inf is never drawn, and a shift of the logits changes nothing in law."""
    logits = torch.tensor([0.0, -math.inf, 2.0, -1.0, 0.5], dtype=dtype)
    drawn = random.categorical(random.key(24), logits, shape=(50_000,))
    assert_counts(drawn, logits.double().softmax(0).tolist())
    rows = torch.stack([logits, logits.flip(0)], 1)
    by_column = random.categorical(random.key(25), rows, dim=0, shape=(50_000, 2))
    assert_counts(by_column[:, 1], rows[:, 1].double().softmax(0).tolist())


def test_weighted_choices_are_as_likely_as_their_weights() -> None:
    """With replacement; a weight of zero is never chosen, first or last."""
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0, 4.0, 0.0])
    chosen = random.choice(random.key(26), 6, (80_000,), p=weights)
    assert_counts(chosen, (weights.double() / 8).tolist())


@pytest.mark.parametrize("weights", [None, [0.5, 0.2, 0.3], [0.0, 0.25, 0.75]])
def test_choices_without_replacement(weights: list[float] | None) -> None:
    """Ordered pairs are as likely as drawing one after another makes them."""
    p = None if weights is None else torch.tensor(weights)
    many = random.split(random.key(27), 20_000)
    pairs = torch.func.vmap(lambda key: random.choice(key, 3, (2,), replace=False, p=p))(many)
    each = weights or [1 / 3] * 3
    expected = [each[i] * each[j] / (1 - each[i]) if i != j else 0.0 for i, j in itertools.product(range(3), repeat=2)]
    assert_counts(pairs[:, 0] * 3 + pairs[:, 1], expected)


@given(keys(), st.integers(1, 5), st.sampled_from([(), (3,), (2, 2)]), st.integers(0, 1))
def test_slices_are_chosen_along_one_dimension(key: Tensor, n: int, shape: tuple[int, ...], dim: int) -> None:
    """A tensor is indexed by what is chosen of its length."""
    x = torch.arange(10.0 * n).view((n, 10) if dim == 0 else (10, n))
    chosen = random.choice(key, n, shape)
    found = random.choice(key, x, shape, dim=dim)
    assert_same(found, x[chosen] if dim == 0 else x[:, chosen])


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_dropout_keeps_the_mean_and_its_mask_is_its_gradient(p: float) -> None:
    """As torch's own: zeros as often as said, the others scaled by 1 / (1 - p)."""
    x = torch.linspace(1, 2, 60_000, dtype=torch.float64)
    dropped = random.dropout(random.key(28), x, p)
    zeros = dropped == 0
    assert_counts(zeros.long(), [1 - p, p])
    torch.testing.assert_close(dropped[~zeros], x[~zeros] / (1 - p or 1))
    gradient = torch.func.grad(lambda x: random.dropout(random.key(28), x, p).sum())(x)
    torch.testing.assert_close(gradient * x, dropped)


def test_draws_shaped_like_a_tree() -> None:
    """Each leaf has numbers and memory of its own, in its dtype, whatever draws."""
    tree = {"w": torch.zeros(200, 3), "b": (torch.zeros(50, dtype=torch.float64), torch.zeros(())), "none": None}
    drawn = random.like(KEY, tree, random.uniform, low=5.0, high=6.0)
    assert ft.tree.same_structure(drawn, tree)
    for leaf, original in zip(ft.tree.leaves(drawn), ft.tree.leaves(tree), strict=True):
        assert (leaf.shape, leaf.dtype) == (original.shape, original.dtype)
        assert ((leaf >= 5) & (leaf < 6)).all()
        assert leaf.untyped_storage().nbytes() == leaf.numel() * leaf.element_size()
    values = torch.cat([leaf.flatten().double() for leaf in ft.tree.leaves(drawn)])
    assert len(values.unique()) > 640
    assert_same(random.like(KEY, tree)["w"], random.like(KEY, tree, random.normal, std=1.0)["w"])


def test_a_key_that_is_used_twice_is_found() -> None:
    """With both lines; splitting and folding in are no mistake, nor is what backward computes again."""
    with random.debug_key_reuse():
        first, second = random.split(random.key(30))
        random.normal(first, (2,))
        random.dropout(second, torch.ones(3))
        folded = [random.uniform(random.fold_in(random.key(31), step)) for step in range(3)]
        assert len(set(map(float, folded))) == 3
        with pytest.raises(
            PurityError, match=r"random.bits was given a key that random.normal has used up, in .*\.py:"
        ):
            random.bits(first)
        with pytest.raises(PurityError, match=r"random.split was given a key that random.split has used up"):
            random.split(random.key(30))
        x, key = torch.ones(3, requires_grad=True), random.key(32)
        y = torch.utils.checkpoint.checkpoint(lambda x: random.dropout(key, x).sin(), x, use_reentrant=False)
        y.sum().backward()
    assert_same(random.bits(first), random.bits(first))


BAD_CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: random.truncated_normal(KEY, std=0.0), HyperparameterError, r"std must be above 0, got 0.0"),
    (lambda: random.truncated_normal(KEY, low=3.0), HyperparameterError, r"high - low must be .* low=3.0 and high=2.0"),
    (lambda: random.exponential(KEY, rate=-1.0), HyperparameterError, r"rate must be above 0, got -1.0"),
    (lambda: random.bernoulli(KEY, p=1.5), HyperparameterError, r"p must be in \[0, 1\], got 1.5. It is a prob"),
    (lambda: random.bernoulli(KEY, (2,), p=torch.ones(3)), StructureError, r"p must be real and broadcast to shape"),
    (lambda: random.randint(KEY, low=3, high=3), HyperparameterError, r"high must be above low, .* high=3"),
    (
        lambda: random.randint(KEY, high=300, dtype=torch.uint8),
        HyperparameterError,
        r"\[0, 300\) do not fit in .*uint8",
    ),
    (lambda: random.randint(KEY, high=3, dtype=torch.float32), StructureError, r"For real numbers use random.uniform"),
    (lambda: random.randint(KEY, high=2.5), StructureError, r"high must be an int, got 2.5 \(float\)"),
    (lambda: random.randint(KEY, high=torch.ones(())), StructureError, r"high must be an int or an integer tensor"),
    (
        lambda: random.categorical(KEY, torch.tensor(1.0)),
        StructureError,
        r"logits must be a floating tensor with a dim",
    ),
    (
        lambda: random.categorical(KEY, torch.ones(4, 3), shape=(5,)),
        StructureError,
        r"shape must end with \(4,\), that of the logits without dim=-1, got \(5,\)",
    ),
    (
        lambda: random.choice(KEY, 3, (4,), replace=False),
        HyperparameterError,
        r"4 elements .* without .*, and 3 can be",
    ),
    (lambda: random.choice(KEY, 0, (1,)), HyperparameterError, r"1 elements are to be chosen, and 0 can be"),
    (
        lambda: random.choice(KEY, 2, (1,), p=torch.zeros(2)),
        HyperparameterError,
        r"and 0 can be. Pass some with p above",
    ),
    (
        lambda: random.choice(KEY, 2, (1,), p=torch.ones(3)),
        StructureError,
        r"p must be a floating tensor of shape \(2,\)",
    ),
    (lambda: random.choice(KEY, torch.tensor(3), (1,)), StructureError, r"Use random.choice\(key, int\(n\)\)"),
    (lambda: random.dropout(KEY, torch.arange(3)), StructureError, r"x must be a floating tensor, got a torch.int64"),
    (lambda: random.dropout(KEY, torch.ones(3), -0.1), HyperparameterError, r"p must be in \[0, 1\], got -0.1"),
    (lambda: random.dropout(KEY, torch.ones(3), torch.tensor(0.1)), StructureError, r"p must be a number, got a torch"),
    (
        lambda: random.like(KEY, {"n": torch.arange(3)}),
        StructureError,
        r"'n' must be a floating tensor, got a torch.int",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=[message for *_, message in BAD_CALLS])
def test_mistakes_are_explained(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    """A bad argument raises an error that names it, the value got, the rule and the fix."""
    with pytest.raises(error, match=message):
        call()
