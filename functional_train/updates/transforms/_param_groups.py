"""Hyperparameters of their own for parts of the parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from functional_train.updates.transformation import GradientTransformation
from functional_train.updates.transforms._partition import partition
from functional_train.values.tree._lookup import Predicate, check_globs, matches
from functional_train.values.types import Tree


def param_groups(
    factory: Callable[..., GradientTransformation],
    groups: Mapping[str, Mapping[str, Any]] | Sequence[tuple[Predicate, Mapping[str, Any]]],
    **hyperparameters: Any,
) -> GradientTransformation:
    """Give parts of the parameters hyperparameters of their own: the parameter groups of torch.optim, by path.

    Args:
        factory: Any function from hyperparameters to a transformation, such as `ft.adamw`.
        groups: Glob of a path to the hyperparameters that differ there, of which the first that matches counts; or
            pairs of a predicate, as in `ft.tree.partition`, and such hyperparameters. They may be schedules.
        **hyperparameters: For all leaves, unless their group says otherwise.

    Returns:
        Transformation with `PartitionState`. Its labels are the globs, `"group 0"`, ... for pairs, and `"rest"`.

    Raises:
        HyperparameterError: a number is outside its range.
        PathError: at `init`: a glob matches nothing.

    Source: torch.optim.Optimizer, `param_groups`.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.param_groups(
        ...     ft.adamw, {"*.bias": {"weight_decay": 0.0}, "embed.*": {"lr": 1e-4}}, lr=1e-3, weight_decay=0.1
        ... )
        >>> no_decay = [(lambda path, leaf: leaf.ndim < 2, {"weight_decay": 0.0})]  # biases and norms
        >>> optimizer = ft.param_groups(ft.adamw, no_decay, lr=1e-3, weight_decay=0.1)
        >>> optimizer.init({"w": torch.ones(2, 2), "b": torch.ones(2)}).labels
        ('group 0', 'rest')
    """
    if isinstance(groups, Mapping):
        named = [(glob, glob, overrides) for glob, overrides in groups.items()]
    else:
        named = [(f"group {place}", predicate, overrides) for place, (predicate, overrides) in enumerate(groups)]
    parts = {label: factory(**{**hyperparameters, **overrides}) for label, _, overrides in named}
    parts["rest"] = factory(**hyperparameters)

    def label_of(path: str, leaf: Any) -> str:
        return next((label for label, predicate, _ in named if matches(predicate, path, leaf)), "rest")

    divided = partition(parts, label_of)

    def init(params: Tree) -> Tree:
        for _, predicate, _ in named:
            check_globs(params, predicate)
        return divided.init(params)

    return GradientTransformation(init, divided.update)
