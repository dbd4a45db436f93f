"""Arguments of a call as copies that nothing else refers to."""

import copy
from collections import Counter
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from functional_train.purity._watch import stored
from functional_train.values._calls import leaves_by_name
from functional_train.values._captured import held_by
from functional_train.values.errors import StructureError
from functional_train.values.tree._structure import map, tensors

# A tensor that is a smaller part of its memory than this is copied without the rest.
_SMALL_PART = 0.25


def check_repeatable(named: list[tuple[str, Any]]) -> None:
    """Refuse arguments that can be read only once."""
    for path, leaf in leaves_by_name(named):
        if isinstance(leaf, Iterator):
            raise StructureError(
                f"{path!r} is a {type(leaf).__name__}, which can be read only once, so that a second call cannot be "
                "compared with the first. Pass a list."
            )


def copied(tree: Any) -> Any:
    """Copy a tree with all it holds.

    Leaves that are one object, or parts of one memory, are so in the copy too. Functions stay what they are, and so
    does what cannot be copied and holds no tensor.

    Raises:
        StructureError: what holds a tensor cannot be copied.
    """
    leaves = {id(leaf): leaf for leaf in tensors(tree)}.values()
    holders = Counter(_memory(leaf) for leaf in leaves)
    # Shared by all copies: a module that holds one of the leaves holds its copy.
    memo: dict[int, Any] = {}

    def copy_of(leaf: Any) -> Any:
        if id(leaf) not in memo:
            memo[id(leaf)] = (
                _tensor(leaf, memo, is_alone=holders[_memory(leaf)] == 1)
                if isinstance(leaf, Tensor)
                else _object(leaf, memo)
            )
        return memo[id(leaf)]

    # Tensors first, so that modules and optimizers among the leaves find them.
    for leaf in leaves:
        copy_of(leaf)
    return map(copy_of, tree)


def _memory(tensor: Tensor) -> int:
    # Of several parts, as a sparse one is, none shares its memory with another leaf.
    is_whole = [id(part) for part in stored(tensor)] == [id(tensor)]
    return tensor.untyped_storage()._cdata if is_whole else id(tensor)


def _tensor(tensor: Tensor, memo: dict[int, Any], *, is_alone: bool) -> Tensor:
    if tensor.layout is torch.strided and is_alone and type(tensor) is Tensor:
        nbytes = tensor.numel() * tensor.element_size()
        if nbytes < _SMALL_PART * tensor.untyped_storage().nbytes():
            return _with_gradient(tensor.detach().clone(), tensor)
    if isinstance(tensor, nn.Parameter):
        return _with_gradient(copy.deepcopy(tensor, memo), tensor)
    return _with_gradient(copy.deepcopy(tensor.detach(), memo), tensor)


def _with_gradient(made: Tensor, tensor: Tensor) -> Tensor:
    made.requires_grad_(tensor.requires_grad)
    if tensor.is_leaf and tensor.grad is not None:
        made.grad = tensor.grad.detach().clone()
    return made


def _object(leaf: Any, memo: dict[int, Any]) -> Any:
    if isinstance(leaf, torch.Generator):
        return leaf.clone_state()
    if isinstance(leaf, FunctionType | type):
        return leaf
    try:
        return copy.deepcopy(leaf, memo)
    except Exception as error:  # a class may refuse in any way
        if held_by([("", leaf)]).tensors:
            raise StructureError(
                f"a {type(leaf).__name__} among the arguments cannot be copied ({type(error).__name__}: {error}), so "
                "that a check could do it harm. Pass its tensors; of a module, those of ft.functionalize(module)."
            ) from error
        return leaf
