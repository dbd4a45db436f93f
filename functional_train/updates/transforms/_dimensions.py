"""A leaf as an array of real numbers, some of whose dimensions have a matrix of their own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.values.tree import Flat
from functional_train.values.tree._structure import is_floating

# What stands at each dimension of a leaf: its matrix, its diagonal, or a matrix of size 0 for nothing. Not None, which
# vmap takes for a leaf and refuses, nor an empty tuple, since torch's tracer fails on a dict without tensors.
Matrices = tuple[Tensor, ...]


class Layout(NamedTuple):
    """How the numbers of a leaf are laid out.

    Attributes:
        shape: Of the array, of one dimension at least; the parts of complex numbers are neighbors in its last one.
        active: For each of its dimensions, whether it has a matrix.
    """

    shape: tuple[int, ...]
    active: tuple[bool, ...]

    def view(self, leaf: Tensor) -> Tensor:
        """The numbers of a leaf as the array."""
        leaf = torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
        return leaf if leaf.shape == self.shape else leaf.reshape(self.shape)

    def back(self, array: Tensor, like: Tensor) -> Tensor:
        """The array as a leaf of the shape and dtype of another."""
        if like.is_complex():
            return torch.view_as_complex(array.reshape(*like.shape, 2)).to(like.dtype)
        return array.reshape(like.shape).to(like.dtype).contiguous()

    def matrices(self, make: Callable[[int], Tensor]) -> Matrices:
        """What `make` makes of the size of each dimension, which is 0 for one without a matrix."""
        return tuple([make(size if here else 0) for size, here in zip(self.shape, self.active, strict=True)])


def layout(leaf: Tensor, max_dim: int, *, vectors: bool = True, merge: bool = False) -> Layout:
    """Lay a leaf out.

    Args:
        leaf: Any tensor; one that is not floating, or holds nothing, has no matrices.
        max_dim: The largest dimension that has a matrix.
        vectors: Whether the one dimension of a vector has a matrix.
        merge: Whether neighboring dimensions become one, as long as that is not above `max_dim`.

    Returns:
        The layout, which depends on shape and dtype alone.
    """
    shape = tuple(leaf.shape) or (1,)
    if leaf.is_complex():
        shape = (*shape[:-1], shape[-1] * 2)
    if not is_floating(leaf) or leaf.numel() == 0:
        return Layout(shape, (False,) * len(shape))
    whole = leaf.ndim >= 2 or vectors
    shape = _merged(shape, max_dim) if merge else shape
    return Layout(shape, tuple([whole and size <= max_dim for size in shape]))


def every_dim(leaf: Tensor, max_dim: int, *, merge: bool = False) -> Layout:
    """The layout in which each dimension takes part, a larger one than `max_dim` with a diagonal."""
    shape = layout(leaf, max_dim, merge=merge).shape
    return Layout(shape, (is_floating(leaf) and leaf.numel() > 0,) * len(shape))


def _merged(shape: tuple[int, ...], max_dim: int) -> tuple[int, ...]:
    merged: list[int] = []
    for size in shape:
        if merged and merged[-1] * size <= max_dim:
            merged[-1] *= size
        else:
            merged.append(size)
    return tuple(merged)


def statistics_dtype(leaf: Tensor) -> torch.dtype:
    """The real dtype in which products of a leaf's numbers are added up: 32 bits wide at least."""
    dtype = leaf.dtype.to_real() if leaf.is_complex() else leaf.dtype
    return dtype if dtype == torch.float64 else torch.float32


def unfolded(array: Tensor, dim: int) -> Tensor:
    """The array as a matrix whose rows are its slices along a dimension."""
    return array.movedim(dim, 0).reshape(array.shape[dim], -1)


def slice_products(array: Tensor, dim: int) -> Tensor:
    """The inner products of the array's slices along a dimension, with each other: (size, size).

    As a batch of one, which for all but long slices rounds as one of many under `vmap`. Where these matrices are
    singular, the eigenvectors of small eigenvalues are made of rounding.
    """
    rows = unfolded(array, dim).unsqueeze(0)
    return torch.bmm(rows, rows.mT).squeeze(0)


def along_dims(array: Tensor, matrices: Matrices) -> Tensor:
    r"""Multiply each dimension by its matrix from the right: $x_{ij} \mapsto \sum_{kl} x_{kl} A_{ki} B_{lj}$."""
    for dim, matrix in enumerate(matrices):
        if matrix.numel() > 0:
            turned = array.to(matrix.dtype).movedim(dim, -1)
            array = (turned @ matrix if matrix.ndim == 2 else turned * matrix).movedim(-1, dim)
    return array


def viewed(layouts: Flat, *columns: Flat) -> tuple[Flat, ...]:
    """Columns of leaves as columns of arrays."""
    views = [layouts.map(lambda plan, leaf: plan.view(leaf), column) for column in columns]
    return tuple([Flat(view.leaves, column.frame, column.plain) for view, column in zip(views, columns, strict=True)])


def put_back(layouts: Flat, g: Flat, *columns: Any) -> tuple[Flat, ...]:
    """Columns of arrays as columns of leaves like `g`."""
    return tuple([g.map(lambda like, plan, array: plan.back(array, like), layouts, column) for column in columns])
