"""Orthogonal bases and roots of symmetric matrices."""

from collections.abc import Callable

import torch
from torch import Tensor

from functional_train.updates.checks import Number


def eigenbasis(matrix: Tensor) -> Tensor:
    """The eigenvectors of a symmetric matrix as columns, those of the largest eigenvalues first.

    Computed in float64 and held constant in differentiation: where eigenvalues meet they have no derivative. A matrix
    that is not finite has a basis of nan.
    """
    return _finite_only(matrix, lambda wide: torch.linalg.eigh(wide).eigenvectors.flip(-1).contiguous())


def power_basis(matrix: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """An orthogonal basis brought closer to the eigenvectors by one round of power iteration.

    Args:
        matrix: Symmetric.
        basis: Orthogonal.

    Returns:
        The new basis, whose columns go from the largest eigenvalue to the smallest by the estimates of the old one, and
        the order that this takes the old columns to. Constant in differentiation, like `eigenbasis`.
    """
    matrix, basis = matrix.detach(), basis.detach()
    product = torch.bmm(matrix.unsqueeze(0), basis.unsqueeze(0)).squeeze(0)  # rounds as under vmap
    order = torch.argsort((basis * product).sum(-2), descending=True, stable=True)
    return torch.linalg.qr(product.index_select(-1, order)).Q.contiguous(), order


def symmetric_power(matrix: Tensor, exponent: float, floor: Number) -> Tensor:
    r"""A power of a symmetric positive definite matrix, $V \Lambda^a V^\top$.

    Computed in float64. The first derivative in the matrix is exact, where eigenvalues meet too (Daleckii & Krein);
    the second is not passed on. A matrix that is not finite has a power of nan.

    Args:
        matrix: Symmetric.
        exponent: Any number.
        floor: Eigenvalues below it are raised to it, as are those below what rounding leaves of the largest.

    Returns:
        A matrix like the one given.
    """
    digits = torch.finfo(matrix.dtype).eps
    least = floor.detach() if isinstance(floor, Tensor) else floor

    def decomposed(wide: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(wide)
        return torch.maximum(values, (values[-1:] * digits).clamp(min=least)), vectors

    def power(wide: Tensor) -> Tensor:
        values, vectors = decomposed(wide)
        return (vectors * values.pow(exponent).unsqueeze(-2)) @ vectors.mT

    made = _finite_only(matrix, power)
    if not (matrix.requires_grad or torch.autograd.forward_ad._current_level >= 0):
        return made
    values, vectors = decomposed(matrix.detach().double())
    shift = (matrix - matrix.detach()).double()
    slope = vectors @ (_divided_differences(values, exponent) * (vectors.mT @ shift @ vectors)) @ vectors.mT
    return made + slope.to(matrix.dtype)


def _divided_differences(values: Tensor, exponent: float) -> Tensor:
    """The slopes of $x^a$ between each two of the values, and at the middle of those that are almost one."""
    rows, columns = values.unsqueeze(-1), values.unsqueeze(-2)
    apart, middle = rows - columns, (rows + columns) / 2
    # Nearer than this the difference quotient loses as many digits as the slope at the middle is wrong by.
    near = apart.abs() <= 1e-5 * middle
    quotient = (rows.pow(exponent) - columns.pow(exponent)) / torch.where(near, 1.0, apart)
    return torch.where(near, exponent * middle.pow(exponent - 1), quotient)


def leading_singular_vectors(matrix: Tensor, rank: int, *, right: bool) -> Tensor:
    """The left or right singular vectors of the largest singular values, as columns: (rows or columns, rank).

    Computed in float64 or complex128 and constant in differentiation; nan where an entry is not finite.
    """

    def vectors(wide: Tensor) -> Tensor:
        left, _, rows = torch.linalg.svd(wide, full_matrices=False)
        return (rows.mH if right else left)[:, :rank].contiguous()

    return _finite_only(matrix, vectors)


def _finite_only(matrix: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """`fn` of a matrix in float64, constant in differentiation; nan, where the kernels raise, if not finite."""
    wide = matrix.detach().to(torch.complex128 if matrix.is_complex() else torch.float64)
    finite = torch.isfinite(wide).all()
    return torch.where(finite, fn(torch.where(finite, wide, 0.0)), torch.nan).to(matrix.dtype)
