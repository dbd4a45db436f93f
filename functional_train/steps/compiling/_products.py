"""Small matrix products as loops in the kernels around them.

A call of the library for matrix products costs a few microseconds, as much as some ten thousand multiplications. As a
loop of its own, a small product costs less, and Inductor puts it into one kernel with what comes before and after it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

# Above this many multiplications the library's blocking is worth more than its call costs.
_FEW = 1 << 17
_DTYPES = (torch.float32, torch.float64)
_aten = torch.ops.aten
_library = torch.library.Library("functional_train", "FRAGMENT")
_library.define("small_product(Tensor left, Tensor right) -> Tensor")
_library.impl("small_product", lambda left, right: left @ right, "CompositeExplicitAutograd")


def inline_products(graph: Graph) -> None:
    """Mark products of small matrices on CPU, alone or in batches, for a lowering to loops."""
    for node in list(graph.nodes):
        added: Any = None
        if node.target in (_aten.mm.default, _aten.bmm.default):
            left, right = node.args
        elif node.target is _aten.addmm.default and not node.kwargs and len(node.args) == 3:
            added, left, right = node.args
        else:
            continue
        if not _is_small(left.meta["val"], right.meta["val"]):
            continue
        value = node.meta["val"]
        with graph.inserting_before(node):
            replacement = _call(graph, torch.ops.functional_train.small_product.default, (left, right), value)
            if added is not None:
                replacement = _call(graph, _aten.add.Tensor, (replacement, added), value)
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)


def lower_product(left: Any, right: Any) -> Any:
    """Inductor's own terms: multiply each row by each column, and sum."""
    from torch._inductor.lowering import lowerings

    # Otherwise what makes a number would be repeated for each product that it is in.
    left.realize()
    right.realize()
    unsqueeze, multiply = lowerings[_aten.unsqueeze.default], lowerings[_aten.mul.Tensor]
    return lowerings[_aten.sum.dim_IntList](multiply(unsqueeze(left, -1), unsqueeze(right, -3)), [-2])


def _is_small(left: Tensor, right: Tensor) -> bool:
    sizes = (*left.shape, right.shape[-1])
    if left.device.type != "cpu" or left.dtype not in _DTYPES or not all(isinstance(size, int) for size in sizes):
        return False
    return left.numel() * right.shape[-1] <= _FEW


def _call(graph: Graph, target: Any, args: tuple[Any, ...], value: Tensor) -> Node:
    node = graph.call_function(target, args)
    node.meta["val"] = value
    return node
