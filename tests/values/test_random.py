"""Random numbers are functions of a key: known answers, the same numbers on every path, and the right distributions."""

import math
from collections.abc import Callable
from functools import partial
from unittest import mock

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from functional_train.values import random
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.random import _threefry
from tests.values.draws import (
    DIGITS,
    DRAWS,
    DTYPES,
    KNOWN_ANSWERS,
    LEVEL,
    SIZES,
    assert_near_or_same,
    assert_same,
    drawn,
    each_draw,
    keys,
    on_lanes,
    words_are,
)

KEY = random.key(0)


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN_ANSWERS)
def test_both_ciphers_give_the_known_answers(
    counter: tuple[int, int], key: tuple[int, int], block: tuple[int, int]
) -> None:
    """The cipher on ints and the cipher on lanes give the blocks that Random123 publishes."""
    assert _threefry.encrypt_ints(key, *counter) == block
    lanes = torch.tensor(counter).to(torch.int32).view(2, 1)
    first, second = _threefry.encrypt_lanes(torch.tensor(key), lanes[0], lanes[1])
    assert (first.item() & 0xFFFFFFFF, second.item() & 0xFFFFFFFF) == block


@given(keys(), st.integers(0, 2**62 - 1))
def test_the_two_ciphers_agree_at_any_counter(key: Tensor, index: int) -> None:
    """For any key and any 62-bit counter, given as an int or as a tensor, ints and lanes give the same block."""
    expected = torch.tensor(_threefry.encrypt_ints(key.tolist(), 0xC0000000 | index >> 32, index & 0xFFFFFFFF))
    for data in (index, torch.tensor(index)):
        assert_same(random.fold_in(key, data), expected)
        assert_same(on_lanes(random.fold_in, key, data), expected)


@each_draw
@given(key=keys(), n=st.integers(0, 40))
def test_ints_and_lanes_draw_the_same(draw: Callable[[Tensor, int], Tensor], key: Tensor, n: int) -> None:
    """Whatever is drawn, it is the same bit for bit whether Python ints or lanes encrypted the counters."""
    assert_same(on_lanes(draw, key, n), draw(key, n))


@each_draw
def test_vmap_over_keys_is_a_loop(draw: Callable[[Tensor, int], Tensor]) -> None:
    """Mapping over keys equals the Python loop over them, bit for bit, also when mapped twice."""
    many = random.split(random.key(1), 6)
    for n in SIZES:
        expected = torch.stack([draw(key, n) for key in many])
        assert_same(torch.func.vmap(partial(drawn, draw, n))(many), expected)
        twice = torch.func.vmap(torch.func.vmap(partial(drawn, draw, n)))(many.view(2, 3, 2))
        assert_same(twice.flatten(0, 1), expected)


@pytest.mark.parametrize("name", DRAWS)
def test_a_graph_draws_the_same_and_bakes_no_key_in(name: str) -> None:
    """Traced with one key, or compiled whole, a draw is what the plain function draws, with any key."""
    torch._dynamo.reset()
    graphs = {n: make_fx(partial(drawn, DRAWS[name], n), tracing_mode="fake")(random.key(1)) for n in (7, 600)}
    compiled = torch.compile(lambda key: DRAWS[name](key, 7), fullgraph=True, backend="aot_eager")
    for key in random.split(random.key(2)):
        assert_near_or_same(name, compiled(key), DRAWS[name](key, 7))
        for n, graph in graphs.items():
            assert_near_or_same(name, graph(key), DRAWS[name](key, n))


def test_shapes_may_be_symbols() -> None:
    """One graph with symbolic sizes draws for any size, few blocks or many."""

    def draws(key: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return random.bits(key, x.shape), random.uniform(key, x.shape), random.permutation(key, x)

    key = random.key(4)
    graph = make_fx(draws, tracing_mode="symbolic")(key, torch.ones(5, 3))
    for sizes in ((6, 4), (301, 11)):
        x = torch.arange(math.prod(sizes)).view(sizes)
        for actual, expected in zip(graph(key, x), draws(key, x), strict=True):
            assert_same(actual, expected)


@pytest.mark.parametrize("name", DRAWS)
def test_drawing_is_pure(name: str) -> None:
    """A draw repeats itself, writes to no key, moves no global generator, and lives where its key does."""
    key, state, draw = random.key(6), torch.get_rng_state(), DRAWS[name]
    first = draw(key, 9)
    assert_same(draw(key, 9), first)
    if not name.endswith(("tensor", "weighted", "dropout", "like", "categorical")):  # these make tensors of their own
        with torch.device("meta"):
            assert_same(draw(key, 9), first)
            assert_same(on_lanes(draw, key, 9), first)
    assert key._version == 0
    assert_same(key, torch.tensor([0, 6]))
    assert_same(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [name for name in DRAWS if name.startswith(("bits", "uniform", "normal", "split"))])
@given(key=keys(), n=st.integers(0, 20), more=st.integers(0, 20))
def test_a_draw_begins_with_the_smaller_ones(name: str, key: Tensor, n: int, more: int) -> None:
    """Drawing more leaves the first numbers as they were."""
    small = DRAWS[name](key, n)
    assert_same(DRAWS[name](key, n + more)[: len(small)], small)
    assert_same(DRAWS[name](key, n + 1000)[: len(small)], small)


@given(st.integers(0, 2**64 - 1))
def test_a_key_holds_its_seed(seed: int) -> None:
    """The two words of a key are the seed, so different seeds give different keys."""
    high, low = random.key(seed).tolist()
    assert high << 32 | low == seed


@given(keys(), st.integers(-(2**63), 2**63 - 1))
def test_fold_in_takes_tensors_modulo_two_to_the_62(key: Tensor, data: int) -> None:
    """An integer tensor is folded in like the int it stands for, modulo 2**62, whatever its dtype and the transform."""
    expected = random.fold_in(key, data % 2**62)
    assert_same(random.fold_in(key, torch.tensor(data)), expected)
    assert_same(torch.func.vmap(lambda index: random.fold_in(key, index))(torch.tensor([data]))[0], expected)
    small = torch.tensor(data).to(torch.int8)
    assert_same(random.fold_in(key, small), random.fold_in(key, int(small) % 2**62))


@given(keys())
def test_draws_splits_and_folds_never_meet(key: Tensor) -> None:
    """The blocks that one key gives to draws, to `split` and to `fold_in` are all different, as are their counters."""
    blocks = [*random.bits(key, (400,)).view(-1, 2).tolist(), *random.split(key, 200).tolist()]
    folded = torch.func.vmap(lambda data: random.fold_in(key, data))(torch.arange(200))
    blocks += folded.tolist()
    assert len({tuple(block) for block in blocks}) == 600


def test_split_keys_collide_like_random_numbers() -> None:
    """Among 2**20 split keys none repeats, and their first words share as many birthdays as chance has it."""
    first, second = random.split(random.key(8), 2**20).unbind(-1)
    assert len(torch.unique(first << 31 ^ second)) == 2**20
    for word in (first, second):
        # Pairs among 2**20 people with 2**32 birthdays: close to Poisson with mean 2**40 / 2 / 2**32 = 128.
        shared = 2**20 - len(torch.unique(word))
        assert LEVEL < stats.poisson.cdf(shared, 128) < 1 - LEVEL


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5])
def test_every_byte_of_the_bits_is_uniform(seed: int) -> None:
    """Each of the four bytes takes its 256 values equally often, and neighbors are independent (chi-square)."""
    drawn = random.bits(random.key(seed), (200_000,))
    assert drawn.dtype == torch.int64
    assert (drawn >= 0).all()
    assert (drawn < 2**32).all()
    for shift in (0, 8, 16, 24):
        counts = torch.bincount(drawn >> shift & 0xFF, minlength=256)
        assert LEVEL < stats.chisquare(counts).pvalue < 1 - LEVEL
    nibbles = drawn >> 28
    pairs = torch.bincount(nibbles[:-1] * 16 + nibbles[1:], minlength=256)
    assert stats.chisquare(pairs).pvalue > LEVEL


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_lies_on_the_grid_of_its_dtype(dtype: torch.dtype) -> None:
    """Every uniform is a multiple of 2**-digits in [0, 1), and all multiples of 2**-8 are equally likely."""
    drawn = random.uniform(random.key(11), (100_000,), dtype=dtype)
    assert drawn.dtype == dtype
    grid = drawn.double() * 2.0 ** DIGITS[dtype]
    assert_same(grid, grid.floor())
    assert grid.min() >= 0
    assert grid.max() < 2.0 ** DIGITS[dtype]
    assert (grid % 2 == 1).any()
    counts = torch.bincount((drawn.double() * 256).long(), minlength=256)
    assert LEVEL < stats.chisquare(counts).pvalue < 1 - LEVEL


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_uniform_and_normal_follow_their_laws(dtype: torch.dtype) -> None:
    """Uniforms and normals pass a Kolmogorov-Smirnov test, and the two halves of Box and Muller are unrelated."""
    key_uniform, key_normal = random.split(random.key(12))
    drawn = random.uniform(key_uniform, (200_000,), low=-1.0, high=3.0, dtype=dtype).numpy()
    assert stats.kstest(drawn, stats.uniform(-1.0, 4.0).cdf).pvalue > LEVEL
    pairs = random.normal(key_normal, (100_000, 2), mean=1.0, std=2.0, dtype=dtype).numpy()
    assert stats.kstest(pairs.reshape(-1), stats.norm(1.0, 2.0).cdf).pvalue > LEVEL
    assert stats.pearsonr(*pairs.T).pvalue > LEVEL
    assert stats.pearsonr(*(pairs - 1.0).T ** 2).pvalue > LEVEL


@pytest.mark.parametrize("dtype", DTYPES[2:])
def test_short_dtypes_round_the_normals_of_float32(dtype: torch.dtype) -> None:
    """float16 and bfloat16 normals are those of float32, rounded."""
    key = random.key(13)
    assert_same(random.normal(key, (999,), dtype=dtype), random.normal(key, (999,), dtype=torch.float32).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_words_give_finite_draws(dtype: torch.dtype) -> None:
    """Words of all zeros and all ones give uniforms below `high` and finite normals that reach far into the tail."""
    key = random.key(0)
    for word, expected in ((0, 0.0), (2**32 - 1, 1 - 2.0 ** -DIGITS[dtype])):
        with words_are((word, word)):
            assert random.uniform(key, (), dtype=dtype).item() == expected
            assert random.normal(key, (2,), dtype=dtype).isfinite().all()


def test_normals_reach_far_into_the_tail() -> None:
    """The longest radius comes from the rarest word: 6.66 standard deviations in float32, 8.57 in float64."""
    for dtype, words, far in (
        (torch.float32, [(0, 0)], math.sqrt(64 * math.log(2))),
        (torch.float64, [(2**32 - 1, 2**32 - 1), (0, 0)], math.sqrt(106 * math.log(2))),
    ):
        with words_are(*words):
            assert random.normal(KEY, (1,), dtype=dtype).item() == pytest.approx(far, rel=1e-6)


WORDS = st.sampled_from([0, 2**31, 2**32 - 1])


@given(st.sampled_from(DTYPES), st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), WORDS, st.booleans())
def test_uniform_never_reaches_its_upper_bound(
    dtype: torch.dtype, low: float, width: float, word: int, as_tensors: bool
) -> None:
    """Whatever the word and the bounds, numbers or tensors, the draw is in [low, high) as the dtype has it."""
    bounds = torch.tensor([low, low + width], dtype=dtype)
    assume(bounds[1] - bounds[0] >= torch.finfo(dtype).eps * bounds.abs().max())
    low_in, high_in = bounds if as_tensors else bounds.tolist()
    with words_are((word, word)):
        values = random.uniform(random.key(0), (3,), low=low_in, high=high_in, dtype=dtype)
    assert (bounds[0] <= values).all()
    assert (values < bounds[1]).all()


def test_uniform_is_uniform_where_there_are_few_floats() -> None:
    """Between two bounds three floats apart, rounding gives each of the three the same share."""
    step = torch.finfo(torch.float32).eps
    drawn = random.uniform(random.key(14), (30_000,), low=1.0, high=1.0 + 3 * step, dtype=torch.float32)
    counts = torch.bincount(((drawn - 1.0) / step).round().long())
    assert counts.shape == (3,)
    assert stats.chisquare(counts).pvalue > LEVEL


def test_draws_follow_the_default_dtype() -> None:
    """Without a dtype, floats come in torch's default dtype."""
    with mock.patch.object(torch, "get_default_dtype", return_value=torch.float64):
        assert random.uniform(KEY).dtype == random.normal(KEY).dtype == torch.float64
    assert random.uniform(KEY).dtype == random.normal(KEY).dtype == torch.get_default_dtype()


def test_normal_is_differentiable_in_mean_and_std() -> None:
    """A normal is mean + std times a draw of the standard one: the gradients are 1 and that draw."""
    key, standard = random.key(15), random.normal(random.key(15), (3, 2))
    weight = torch.arange(6.0).view(3, 2)

    def loss(mean: Tensor, std: Tensor) -> Tensor:
        return (weight * random.normal(key, (3, 2), mean=mean, std=std)).sum()

    mean_grad, std_grad = torch.func.grad(loss, argnums=(0, 1))(torch.zeros(2), torch.ones(3, 1))
    torch.testing.assert_close(mean_grad, weight.sum(0))
    torch.testing.assert_close(std_grad, (weight * standard).sum(1, keepdim=True))


def test_uniform_is_differentiable_in_its_bounds() -> None:
    """A uniform is low + (high - low) u: the gradients are 1 - u and u, also through autograd and under vmap."""
    key, unit = random.key(16), random.uniform(random.key(16), (5,))

    def draw(low: Tensor, high: Tensor) -> Tensor:
        return random.uniform(key, (5,), low=low, high=high).sum()

    expected, lows = ((1 - unit).sum(), unit.sum()), torch.tensor([-1.0, 0.0])
    leaves = torch.tensor(-1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    torch.testing.assert_close(torch.autograd.grad(draw(*leaves), leaves), expected)
    for actual, each in zip(torch.func.vmap(torch.func.grad(draw, (0, 1)))(lows, lows + 2), expected, strict=True):
        torch.testing.assert_close(actual, each.expand(2))


@given(keys(), st.integers(0, 700))
def test_a_permutation_holds_every_number_once(key: Tensor, n: int) -> None:
    """Sorting a permutation of n gives the numbers below n."""
    order = random.permutation(key, n)
    assert order.dtype == torch.int64
    assert_same(order.sort().values, torch.arange(n))


def test_ties_are_broken_by_the_second_word_and_then_by_position() -> None:
    """Both words of a block count in the order, and equal blocks keep theirs, so that every device agrees."""
    with words_are((2, 5), (2, 3), (0, 9), (2, 3)):
        order = random.permutation(KEY, 80)
    assert_same(order.view(4, 20) % 4, torch.tensor([[2] * 20, [1, 3] * 10, [1, 3] * 10, [0] * 20]))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_all_permutations_are_equally_likely(n: int) -> None:
    """Over many keys each of the n! orders comes equally often (chi-square)."""
    many = random.split(random.key(17), 24_000)
    orders = torch.func.vmap(lambda key: random.permutation(key, n))(many)
    codes = (orders * n ** torch.arange(n)).sum(1)
    counts = torch.unique(codes, return_counts=True)[1]
    assert len(counts) == math.factorial(n)
    assert LEVEL < stats.chisquare(counts).pvalue < 1 - LEVEL


@given(keys(), st.lists(st.integers(0, 4), min_size=1, max_size=3), st.data())
def test_a_tensor_is_permuted_along_one_dimension(key: Tensor, sizes: list[int], data: st.DataObject) -> None:
    """A tensor is indexed by the permutation of its size along `dim`; its slices stay whole."""
    dim = data.draw(st.integers(-len(sizes), len(sizes) - 1))
    x = torch.arange(math.prod(sizes)).view(sizes)
    assert_same(random.permutation(key, x, dim), x.index_select(dim, random.permutation(key, sizes[dim])))


BAD_CALLS: list[tuple[Callable[[], Tensor], type[Exception], str]] = [
    (lambda: random.key(1.5), StructureError, r"seed must be an int, got 1.5 \(float\). Use random.key\(0\)"),
    (lambda: random.key(-1), HyperparameterError, r"seed must be in \[0, 2\*\*64\), got -1. Use seed % 2\*\*64"),
    (lambda: random.split(3), StructureError, r"got 3 \(int\). Make one with random.key\(3\)"),
    (lambda: random.normal(torch.zeros(2)), StructureError, r"a torch.float32 tensor of shape \(2,\). Make one with"),
    (lambda: random.fold_in(torch.tensor(3), 1), StructureError, r"of shape \(\). Make one with random.key\(seed\)"),
    (lambda: random.uniform(random.split(KEY, 3)), StructureError, r"shape \(3, 2\). These are many keys: .*vmap"),
    (lambda: random.split(KEY, 0), HyperparameterError, r"num must be at least 1, got 0"),
    (lambda: random.fold_in(KEY, "layer1"), StructureError, r"data must be an int, got 'layer1' \(str\)"),
    (lambda: random.fold_in(KEY, torch.ones(())), StructureError, r"data must be .* got a torch.float32 tensor"),
    (lambda: random.fold_in(KEY, -1), HyperparameterError, r"data must be in \[0, 2\*\*62\), got -1"),
    (lambda: random.bits(KEY, 3), StructureError, r"shape must be a tuple of sizes, got 3 \(int\). Write \(3,\)"),
    (lambda: random.bits(KEY, (2, -1)), StructureError, r"ints of at least 0, got \(2, -1\)"),
    (lambda: random.uniform(KEY, dtype=torch.int64), StructureError, r"got torch.int64. For whole numbers use random"),
    (
        lambda: random.uniform(KEY, low=1.0),
        HyperparameterError,
        r"high - low must be in \[1.19e-07 .* low=1.0 and high=1.0",
    ),
    (lambda: random.uniform(KEY, low=2.0**24, high=2.0**24 + 1), HyperparameterError, r"3.4e\+38\] for torch.float32"),
    (lambda: random.uniform(KEY, high="1"), StructureError, r"high must be a number or a tensor, got '1' \(str\)"),
    (lambda: random.uniform(KEY, low=torch.zeros(3)), StructureError, r"broadcast to shape \(\), .* Pass the shape"),
    (lambda: random.normal(KEY, (2,), mean=torch.zeros(3)), StructureError, r"mean must be real and broadcast"),
    (lambda: random.normal(KEY, std=-1.0), HyperparameterError, r"std must be at least 0, got -1.0"),
    (lambda: random.permutation(KEY, -1), HyperparameterError, r"n_or_tensor must be at least 0, got -1"),
    (lambda: random.permutation(KEY, torch.tensor(3)), StructureError, r"got a tensor of shape \(\). Use random.perm"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=[message for *_, message in BAD_CALLS])
def test_mistakes_are_explained(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    """A bad argument raises an error that names it, the value got, the rule and the fix."""
    with pytest.raises(error, match=message):
        call()
