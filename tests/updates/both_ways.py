"""One optimizer class run both ways: as an object that is stepped, and wrapped as a transformation."""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import functional_train as ft
from tests.global_rng import seeded
from tests.trees import assert_bitwise, normal

NUM_STEPS = 10
SHAPES: Mapping[str, tuple[int, ...]] = {"a": (4, 3), "b": (5,), "c": (2, 3, 2), "d": ()}
Tree = dict[str, Any]


def start(shapes: Mapping[str, tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32) -> Tree:
    return {name: normal(place, shape, dtype) for place, (name, shape) in enumerate(shapes.items())}


def grad_and_value(params: Tree) -> tuple[Tree, Tensor]:
    """Of a loss that is neither quadratic nor convex, the same at every step."""
    grads = {name: torch.sin(2 * leaf) + 0.3 * leaf for name, leaf in params.items()}
    value = torch.stack([(0.15 * leaf**2 - torch.cos(2 * leaf) / 2).sum() for leaf in params.values()]).sum()
    return grads, value


def gradients(step: int, params: Tree, absent: bool = True, sparse: bool = False) -> Tree:
    """Of the loss, with noise; the second leaf has none at first, and the third none at some steps."""
    grads, _ = grad_and_value(params)
    noisy = {
        name: grad + 0.1 * normal(100 * step + place, tuple(grad.shape), grad.dtype)
        for place, (name, grad) in enumerate(grads.items())
    }
    names = list(noisy)
    for name, gone in zip(names[1:3], (step < 2, step % 3 == 1), strict=False):
        noisy[name] = None if absent and gone else noisy[name]
    return {name: grad.to_sparse() if sparse and grad is not None else grad for name, grad in noisy.items()}


Gradients = Callable[[int, Tree], Tree]


@contextlib.contextmanager
def drawing(key: Tensor | None) -> Iterator[None]:
    """The global generators, seeded by a key as the wrapper does it, for as long as an object steps."""
    if key is None:
        yield
        return
    with seeded(0):
        number = int(key[0]) << 32 | int(key[1])
        torch.default_generator.manual_seed(number)
        random.seed(number % 2**32)
        np.random.seed(number % 2**32)  # noqa: NPY002
        yield


def as_object(
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    params: Tree,
    gradients_fn: Gradients,
    *,
    closure: bool = False,
    keys: Sequence[Tensor | None] = (None,) * NUM_STEPS,
) -> list[Tree]:
    """Parameters after each step of an object."""
    own = {name: torch.nn.Parameter(leaf.clone()) for name, leaf in params.items()}
    with seeded(0):
        optimizer = make(list(own.values()))
    train = getattr(optimizer, "train", None)
    if callable(train):
        train()
    made: list[Tree] = []

    def fill(grads: Tree, given: Tree) -> None:
        for name, leaf in own.items():
            leaf.grad = None if given[name] is None else grads[name].clone()

    for step, key in enumerate(keys):
        given = gradients_fn(step, {name: leaf.detach().clone() for name, leaf in own.items()})

        def again(given: Tree = given) -> Any:
            grads, value = grad_and_value({name: leaf.detach() for name, leaf in own.items()})
            fill(grads, given)
            return value

        fill(given, given)
        with drawing(key):
            optimizer.step(*([again] if closure else []))
        made.append({name: leaf.detach().clone() for name, leaf in own.items()})
    return made


def as_values(
    optimizer: ft.GradientTransformation,
    params: Tree,
    gradients_fn: Gradients,
    *,
    keys: Sequence[Tensor | None] = (None,) * NUM_STEPS,
) -> list[Tree]:
    """Parameters after each step of the transformation, whose state is made anew from its leaves at each."""
    update_fn, state, made = ft.make_update(optimizer), optimizer.init(params), list[Tree]()
    _, structure = ft.tree.flatten(state)
    for step, key in enumerate(keys):
        extra = {} if key is None else {"key": key}
        given = gradients_fn(step, params)
        params, state = update_fn(given, state, params, grad_and_value_fn=grad_and_value, **extra)
        leaves, found = ft.tree.flatten(state)
        assert found == structure
        state = ft.tree.unflatten(structure, [leaf.clone() for leaf in leaves])
        made.append(params)
    return made


def assert_same_both_ways(
    cls: type[torch.optim.Optimizer],
    kwargs: Mapping[str, Any],
    *,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    gradients_fn: Gradients = gradients,
    closure: bool = False,
    keys: Sequence[Tensor | None] = (None,) * NUM_STEPS,
    dtype: torch.dtype = torch.float32,
    moves: bool = True,
) -> None:
    """The wrapped class gives the object's bits at every step."""
    params = start(shapes, dtype)
    optimizer = ft.wrap_torch_optimizer(cls, **kwargs)
    actual = as_values(optimizer, params, gradients_fn, keys=keys)
    expected = as_object(lambda own: cls(own, **kwargs), params, gradients_fn, closure=closure, keys=keys)
    for step, (one, other) in enumerate(zip(actual, expected, strict=True)):
        try:
            assert_bitwise(one, other)
        except AssertionError as error:
            raise AssertionError(f"at step {step}: {error}") from error
    still = [name for name, leaf in params.items() if leaf.numel() and torch.equal(expected[-1][name], leaf)]
    assert not (moves and still), f"never moved: {still}"
