"""Sparse gradients: a rule is applied to the rows that they touch."""

from collections.abc import Callable

from torch import Tensor, sparse_coo, sparse_coo_tensor

from functional_train.values.tree._flat import Flat


def over_touched(fn: Callable[..., tuple[Flat, ...]], grads: Flat, *states: Flat) -> tuple[Flat, ...]:
    """Apply a function of columns to the rows that sparse gradients touch; to the whole of leaves that are dense.

    `fn` is given gradients and states and returns a direction and states. The direction is sparse where the gradient
    is; states are dense, and where a gradient touches nothing they stay as they are.
    """
    is_sparse = [leaf.layout == sparse_coo for leaf in grads.leaves]
    if not any(is_sparse):
        return fn(grads, *states)
    # Indices may come twice, and a rule that is not linear must see their sum.
    whole = [leaf.coalesce() if here else leaf for leaf, here in zip(grads.leaves, is_sparse, strict=True)]
    rows = [tuple(leaf.indices().unbind()) if here else () for leaf, here in zip(whole, is_sparse, strict=True)]
    values = [leaf.values() if here else leaf for leaf, here in zip(whole, is_sparse, strict=True)]

    def touched(column: Flat) -> Flat:
        leaves = [leaf[row] if row else leaf for leaf, row in zip(column.leaves, rows, strict=True)]
        return Flat(leaves, grads.frame, column.plain)

    def written(old: Flat, new: Flat) -> Flat:
        columns = zip(old.leaves, new.leaves, rows, strict=True)
        leaves = [before.index_put(row, after) if row else after for before, after, row in columns]
        return Flat(leaves, grads.frame, new.plain)

    direction, *made = fn(Flat(values, grads.frame, grads.plain), *map(touched, states))
    pairs = zip(direction.leaves, whole, is_sparse, strict=True)
    updates = Flat([_laid_out(leaf, old) if here else leaf for leaf, old, here in pairs], grads.frame, grads.plain)
    return updates, *[written(old, new) for old, new in zip(states, made, strict=True)]


def _laid_out(values: Tensor, like: Tensor) -> Tensor:
    return sparse_coo_tensor(like.indices(), values, like.shape, is_coalesced=True, check_invariants=False)
