"""Two problems with closed formulas: gradients given in advance, and a quadratic of condition number 10.

Every number is a division of two small integers, so numpy, torch and plain Python agree bit by bit.
"""

from collections.abc import Callable, Iterable
from math import prod

import torch
from torch import Tensor

SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "vector": (3,),
    "matrix": (4, 3),
    "wide": (2, 5),
    "cube": (2, 2, 3),
}
LEAVES = tuple(SHAPES)
NUM_STEPS = 50
STEPS = (1, 2, 3, 10, 25, 50)

# Cubing permutes the residues of a prime that is 2 modulo 3: no two entries nearby are alike.
_PRIME = 10007
_START, _TARGET, _HESSIANS = 0, 51, 100

Tree = dict[str, Tensor]


def numbers(row: int, leaf: int, count: int) -> list[float]:
    """`count` numbers in (-1, 1), none of them zero: (2 ((1009 row + 97 leaf + i + 1)³ mod 10007) - 10007) / 10007."""
    return [(2 * ((1009 * row + 97 * leaf + i + 1) ** 3 % _PRIME) - _PRIME) / _PRIME for i in range(count)]


def _leaf(row: int, leaf: str) -> Tensor:
    shape = SHAPES[leaf]
    return torch.tensor(numbers(row, LEAVES.index(leaf), prod(shape)), dtype=torch.float64).reshape(shape)


def start(leaves: Iterable[str] = LEAVES) -> Tree:
    """Parameters before the first step."""
    return {leaf: _leaf(_START, leaf) for leaf in leaves}


def target(leaves: Iterable[str] = LEAVES) -> Tree:
    """Minimum of the quadratic."""
    return {leaf: _leaf(_TARGET, leaf) for leaf in leaves}


def curvature(leaves: Iterable[str] = LEAVES) -> Tree:
    """Hessian diagonal of the quadratic: 1 to 10 in even steps over all entries of all of `LEAVES`."""
    total = sum(prod(shape) for shape in SHAPES.values())
    trees: Tree = {}
    first = 0
    for leaf, shape in SHAPES.items():
        entries = [1 + 9 * (first + i) / (total - 1) for i in range(prod(shape))]
        trees[leaf] = torch.tensor(entries, dtype=torch.float64).reshape(shape)
        first += prod(shape)
    return {leaf: trees[leaf] for leaf in leaves}


def gradient(step: int, leaf: str) -> Tensor:
    """Given gradient of one leaf at step 1 to 50."""
    return _leaf(step, leaf)


def given(step: int, params: Tree) -> Tree:
    """Gradients that do not ask where the parameters are, so rounding does not feed back."""
    return {leaf: gradient(step, leaf) for leaf in params}


def quadratic(step: int, params: Tree) -> Tree:
    """Gradients of 0.5 Σ c (p - t)² at the parameters."""
    del step
    c, t = curvature(params), target(params)
    return {leaf: c[leaf] * (params[leaf] - t[leaf]) for leaf in params}


def given_loss(step: int, params: Tree) -> float:
    """A loss that has the given gradients: 2 + Σ g p."""
    grads = given(step, params)
    return 2 + sum(float((grads[leaf] * params[leaf]).sum()) for leaf in params)


def quadratic_loss(step: int, params: Tree) -> float:
    """0.5 Σ c (p - t)²."""
    del step
    c, t = curvature(params), target(params)
    return sum(float((0.5 * c[leaf] * (params[leaf] - t[leaf]) ** 2).sum()) for leaf in params)


def given_hessian(step: int, params: Tree) -> Tree:
    """A Hessian diagonal for methods that ask for one: numbers in (-0.5, 1.5), some of them negative."""
    return {leaf: 0.5 + _leaf(_HESSIANS + step, leaf) for leaf in params}


def quadratic_hessian(step: int, params: Tree) -> Tree:
    """The curvature."""
    del step
    return curvature(params)


GRADIENTS: dict[str, Callable[[int, Tree], Tree]] = {"given": given, "quadratic": quadratic}
LOSSES: dict[str, Callable[[int, Tree], float]] = {"given": given_loss, "quadratic": quadratic_loss}
HESSIANS: dict[str, Callable[[int, Tree], Tree]] = {"given": given_hessian, "quadratic": quadratic_hessian}
