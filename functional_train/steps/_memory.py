"""Memory that each plain step takes, and frees with the state before."""

import torch
from torch import Tensor

from functional_train.values.tree._structure import leaves
from functional_train.values.types import Tree

# From larger blocks glibc learns nothing: 32 MiB with what it writes beside them (mallopt(3), M_MMAP_THRESHOLD).
_MOST = (32 << 20) - (64 << 10)


def keep_freed_pages(state: Tree) -> None:
    """Have malloc keep what a state frees, for the state after the next.

    At the end of its heap glibc keeps twice the largest block that was ever freed, and gives the rest back to the
    system. A state of many leaves is larger than that, so that each page of it would cost a fault at the next step: a
    twentieth of a step, for some MB. So one block as large as the state is taken, never touched, and freed, as by any
    program that frees a tensor of that size. From then on the process keeps up to twice as much, 64 MB at most, and
    takes blocks smaller than that one from the heap. Where malloc is another, or was told what to keep, that changes
    nothing.

    Args:
        state: What is made anew, and freed, at each step.
    """
    size = sum([_bytes(leaf) for leaf in leaves(state)])
    # A storage is no tensor: neither filled in deterministic mode nor seen by who watches what is computed.
    torch.UntypedStorage(min(size, _MOST), device="cpu")


def _bytes(leaf: object) -> int:
    if not isinstance(leaf, Tensor) or leaf.device.type != "cpu" or leaf.layout is not torch.strided:
        return 0
    return leaf.numel() * leaf.element_size()
