"""Assertions pass on what is equal, and name the place, the values and the fault on what is not."""

import math
import random as python_random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train import testing
from functional_train.testing.strategies import Layer, Pair
from tests.global_rng import seeded


def bits(*words: int) -> Tensor:
    """Floats with given bits."""
    return torch.tensor(words, dtype=torch.int32).view(torch.float32)


ONE = torch.tensor([1.0, 2.0])
QUIET_NAN, OTHER_NAN = 0x7FC00000, 0x7FC00001


@given(testing.pytrees(testing.tensors() | st.integers() | st.text(max_size=2)))
def test_every_tree_equals_itself_and_its_copy(tree: Any) -> None:
    """Whatever the containers, dtypes, layouts, nan and zeros, a tree is equal, alike and close to its copy."""
    copy = ft.tree.copy(tree)
    for other in (tree, copy):
        testing.assert_trees_equal(tree, other)
        testing.assert_trees_close(tree, other, rtol=0.0)
        testing.assert_trees_alike(tree, other)
        testing.assert_same_structure(tree, other)


@given(testing.tensors().filter(lambda tensor: tensor.numel() > 0), st.data())
def test_a_flipped_bit_is_seen(tensor: Tensor, data: st.DataObject) -> None:
    """A tensor that differs in one bit of one element is not equal, and the message names the element."""
    raw = tensor.contiguous().clone()
    flat = raw.view(-1).view(torch.uint8) if raw.dtype != torch.bool else raw.view(-1)
    place = data.draw(st.integers(0, len(flat) - 1))
    flat[place] = ~flat[place] if raw.dtype == torch.bool else flat[place] ^ 1
    with pytest.raises(AssertionError, match="trees differ at 'w' in 1 of"):
        testing.assert_trees_equal({"w": raw}, {"w": tensor})


UNEQUAL: list[tuple[Any, Any, str]] = [
    ({"a": ONE}, {"b": ONE}, "at 'a': actual has it, expected does not"),
    ([ONE], (ONE,), "at the top: actual has a list there, expected has a tuple"),
    ([None], [ONE], r"at '0': actual has None there, expected has a leaf"),
    (Layer(ONE, None, "a"), Layer(ONE, None, "b"), "at the top: the static fields differ"),
    (ft.Params({"a": ONE, "b": ONE}), ft.Params({"b": ONE, "a": ONE}), "the same names in another order"),
    ({"a": ONE}, {"a": ONE[:1]}, r"in shape at 'a': actual has \(2,\), expected has \(1,\)"),
    ([ONE], [ONE.double()], "in dtype at '0': actual has torch.float32, expected has torch.float64"),
    ([ONE], [ONE.to("meta")], "in device at '0': actual has cpu, expected has meta"),
    ([1.0], [1], "in kind at '0': actual has <class 'float'>"),
    ([True], [1], "in kind at '0'"),
    ({"x": "a"}, {"x": "b"}, "at 'x': 'a' is not 'b'"),
    (Pair(ONE, ONE), Pair(ONE, -ONE), r"at 'second' in 2 of 2 elements, first at \(0,\): 1.0 is not -1.0"),
    (torch.tensor(0.0), torch.tensor(-0.0), "at '' in 1 of 1 elements: 0.0 is not -0.0"),
    (bits(QUIET_NAN), bits(OTHER_NAN), "nan is not nan"),
    (torch.tensor([[1 + 2j, 0]]), torch.tensor([[1 - 2j, 0]]), r"1 of 2 elements, first at \(0, 0\): \(1\+2j\) is not"),
    (torch.tensor(2**62), torch.tensor(2**62 + 1), "4611686018427387904 is not 4611686018427387905"),
]


@pytest.mark.parametrize(("actual", "expected", "message"), UNEQUAL)
def test_what_is_not_equal_is_named(actual: Any, expected: Any, message: str) -> None:
    """Structure, static fields, shape, dtype, device, kind, every bit: each has its message."""
    with pytest.raises(AssertionError, match=message):
        testing.assert_trees_equal(actual, expected)


def test_bits_are_compared_and_not_values() -> None:
    """A nan equals itself with the same payload; lazily conjugated and negated tensors have the bits that they show."""
    testing.assert_trees_equal(bits(QUIET_NAN, OTHER_NAN), bits(QUIET_NAN, OTHER_NAN))
    z = torch.tensor([1 + 2j])
    testing.assert_trees_equal(z.conj(), torch.tensor([1 - 2j]))
    testing.assert_trees_equal(z.conj().imag, torch.tensor([-2.0]))
    testing.assert_trees_equal({"x": math.inf, "y": None}, {"x": math.inf, "y": None})


def test_close_is_a_matter_of_tolerance() -> None:
    """The sum of both tolerances decides, in float64 whatever the leaves; whole numbers are equal or not."""
    near = {"w": torch.tensor([100.0, math.nan, math.inf])}, {"w": torch.tensor([101.0, math.nan, math.inf])}
    testing.assert_trees_close(*near, rtol=0.0099011)
    testing.assert_trees_close(*near, rtol=0.005, atol=0.5)
    with pytest.raises(AssertionError, match=r"first at \(0,\): 100.0 is not within rtol=0.009, atol=0 of 101.0"):
        testing.assert_trees_close(*near, rtol=0.009)
    with pytest.raises(AssertionError, match="3 is not 4"):
        testing.assert_trees_close([torch.tensor(3)], [torch.tensor(4)], rtol=1.0)
    with pytest.raises(AssertionError, match="in dtype"):
        testing.assert_trees_close([ONE], [ONE.double()], rtol=1.0)
    half = torch.tensor(1.0, dtype=torch.float16)
    with pytest.raises(AssertionError, match="is not within"):
        testing.assert_trees_close(half, half + 2**-10, rtol=1e-4)


def put_away(tree: Any) -> None:
    tree["w"] = tree["w"].clone()


def add_and_take_back(tree: Any) -> None:
    tree["w"].add_(1).sub_(1)


def write_past_the_version(tree: Any) -> None:
    tree["w"].data.add_(1)


TOUCHES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda tree: tree["w"].add_(1), "argument '0/w' was written to: its version was 0 and is 1"),
    (add_and_take_back, "argument '0/w' was written to: its version was 0 and is 2"),
    (write_past_the_version, "trees differ at '0/w' in 2 of 2"),
    (lambda tree: tree["w"].t_(), "argument '0/w' was written to: its (version|strides)"),
    (lambda tree: tree["w"].requires_grad_(), "its requires_grad was False and is True"),
    (lambda tree: tree["w"].detach_().requires_grad_().sum().backward(), "argument '0/w' was written to"),
    (put_away, "argument '0/w' is another object now"),
    (lambda tree: tree.pop("w"), "an argument has another structure now, at '0/w': it has it, it now does not"),
    (lambda tree: tree["list"].append(1), "an argument has another structure now, at '0/list/0'"),
]


@pytest.mark.parametrize(("touch", "message"), TOUCHES)
def test_a_touch_is_seen(touch: Callable[[Any], Any], message: str) -> None:
    """Every way to change an argument is named, with the position of the argument and the path."""
    with pytest.raises(AssertionError, match=message):
        testing.assert_untouched(touch, {"w": torch.tensor([1.0, 2.0]), "list": []})


def test_backward_into_an_argument_is_seen() -> None:
    """A gradient that lands on an argument is a touch."""
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(AssertionError, match="argument 'weight' was written to: its grad was None and is"):
        testing.assert_untouched(lambda weight: weight.sum().backward(), weight=weight)


def test_untouched_returns_what_was_returned() -> None:
    """A function that leaves its arguments alone is called once, with them, and its result handed through."""
    calls: list[Any] = []

    def fn(*args: Any, **kwargs: Any) -> str:
        calls.append((args, kwargs))
        return "result"

    batch = torch.ones(2)
    assert testing.assert_untouched(fn, batch, 3, key="x") == "result"
    ((args, kwargs),) = calls
    assert args[0] is batch
    assert (args[1], kwargs) == (3, {"key": "x"})
    with torch.inference_mode():
        testing.assert_untouched(torch.neg, torch.ones(1))


DRAWS: list[tuple[str, Callable[[], Any]]] = [
    ("torch", lambda: torch.rand(1)),
    ("random", python_random.random),
    ("numpy.random", np.random.rand),
]


@pytest.mark.parametrize(("name", "draw"), DRAWS)
def test_a_draw_is_seen(name: str, draw: Callable[[], Any]) -> None:
    """Each global generator that moves is named; an error inside comes out as it is."""
    message = f"the global generator of {name} moved. Draw from a key"
    with seeded(), pytest.raises(AssertionError, match=message), testing.assert_global_rng_untouched():
        draw()
    with seeded(), pytest.raises(ZeroDivisionError), testing.assert_global_rng_untouched():
        draw() / 0 if name != "torch" else draw().tolist()[0] / 0
    with testing.assert_global_rng_untouched(), seeded():
        draw()
