"""Low-rank additions to matrices: a few parameters to train beside many that stay."""

import math

from torch import Tensor

from functional_train.values import random
from functional_train.values.errors import HyperparameterError, PathError, StructureError
from functional_train.values.params import Params
from functional_train.values.tree._lookup import Predicate, matches
from functional_train.values.tree._structure import items, map, paths
from functional_train.values.types import Tree


def lora_init(params: Tree, targets: Predicate = "*", rank: int = 8, *, key: Tensor) -> Params:
    r"""Make low-rank additions for some matrices, which at first add nothing.

    Args:
        params: A tree of tensors.
        targets: Glob of the path, several globs, or `(path, leaf) -> bool`. Leaves of fewer than two dims are left out.
        rank: Number of directions of each addition, at least 1.
        key: A random key of shape (2,).

    Returns:
        The additions by name, to be trained: for a leaf `name` of shape (out, *in) and its dtype, `name.lora_a` of
        shape (rank, prod(in)), uniform in $\pm \sqrt{3 / \prod in}$, and `name.lora_b` of shape (out, rank), zeros.

    Raises:
        HyperparameterError: rank is not an int >= 1.
        PathError: the predicate takes no leaf of two or more dims.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1.

    Differs: the first matrix has uniform entries, where the paper draws Gaussian ones.

    Example:
        >>> import functional_train as ft, torch
        >>> params = {"layer.weight": torch.ones(4, 3), "layer.bias": torch.ones(4)}
        >>> adapters = ft.lora_init(params, rank=2, key=ft.random.key(0))
        >>> {name: tuple(leaf.shape) for name, leaf in adapters.items()}
        {'layer.weight.lora_a': (2, 3), 'layer.weight.lora_b': (4, 2)}
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise HyperparameterError(f"rank must be an int >= 1, got {rank!r}. 8 is usual.")
    chosen = [(path, leaf) for path, leaf in items(params) if leaf.ndim >= 2 and matches(targets, path, leaf)]
    if not chosen:
        raise PathError(
            f"targets={targets!r} takes no leaf of two or more dims, so there is nothing to add to. The paths begin: "
            f"{', '.join(paths(params)[:10])}."
        )
    made: dict[str, Tensor] = {}
    for (path, leaf), own in zip(chosen, random.split(key, len(chosen)), strict=True):
        width = math.prod(leaf.shape[1:])
        bound = math.sqrt(3.0 / max(width, 1))
        made[f"{path}.lora_a"] = (bound * (2.0 * random.uniform(own, (rank, width)) - 1.0)).to(leaf)
        made[f"{path}.lora_b"] = leaf.new_zeros(leaf.shape[0], rank)
    return Params(made)


def lora_merge(params: Tree, adapters: Params, alpha: float = 16.0) -> Tree:
    r"""Add low-rank additions to their matrices: $W + \frac{\alpha}{r} B A$.

    In a loss of the additions it makes the parameters that the model is applied to, so that only they get gradients;
    after training it makes parameters that need no additions.

    Args:
        params: The tree that the additions were made for.
        adapters: What `lora_init` made, or training made of it.
        alpha: Size of the additions, by the convention that it is divided by the rank. Dimensionless.

    Returns:
        A tree like `params`; leaves without an addition are the same tensors.

    Raises:
        StructureError: an addition belongs to no leaf, has no partner, or does not have the shape of its leaf.

    Source: Hu et al. 2021, arXiv:2106.09685, equation 3.

    Example:
        >>> import functional_train as ft, torch
        >>> params = {"w": torch.zeros(2, 2)}
        >>> adapters = ft.Params({"w.lora_a": torch.ones(1, 2), "w.lora_b": torch.ones(2, 1)})
        >>> ft.lora_merge(params, adapters, alpha=0.5)
        {'w': tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])}
    """
    names = iter(paths(params))
    left = {name.rsplit(".", 1)[0] for name in adapters}

    def merged(leaf: Tensor) -> Tensor:
        path = next(names)
        if path not in left:
            return leaf
        left.remove(path)
        try:
            a, b = adapters[f"{path}.lora_a"], adapters[f"{path}.lora_b"]
            return leaf + (alpha / a.shape[0]) * (b @ a).reshape(leaf.shape)
        except (KeyError, RuntimeError) as error:
            raise StructureError(
                f"the addition to {path!r} needs {path}.lora_a of shape (rank, in) and {path}.lora_b of shape (out, "
                f"rank) for a leaf of shape {tuple(leaf.shape)}. Make them with ft.lora_init(params, ...)."
            ) from error

    added = map(merged, params)
    if left:
        raise StructureError(
            f"there is an addition to {min(left)!r}, but the parameters have no such leaf. Make additions with "
            "ft.lora_init of the parameters that they are added to."
        )
    return added
