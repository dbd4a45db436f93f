"""Whether the host may act on what it sees: nothing batches, traces or watches what is computed."""

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def is_unwatched() -> bool:
    """Whether no transform of torch.func, no trace and no dispatch mode is active."""
    # The compiler folds its own question first, and so never meets the private ones.
    return is_unmoded() and peek_interpreter_stack() is None


def is_unmoded() -> bool:
    """Whether no trace and no dispatch mode is active; transforms of torch.func may be."""
    return not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack() == 0


def only_onlookers() -> bool:
    """Whether each active dispatch mode only looks on, so that any operation may run that runs without it."""
    if not torch._C._len_torch_dispatch_stack():
        return True
    return all(getattr(mode, "only_looks_on", False) for mode in _get_current_dispatch_mode_stack())


def is_readable(tensor: Tensor) -> bool:
    """Whether the host may look at a tensor's values, which may make it wait for the tensor's device."""
    return is_unwatched() and type(tensor) is Tensor


def known(condition: Tensor) -> bool | None:
    """What a 0-d condition is, where reading it costs nothing: beside the host, with nothing that maps or traces."""
    return bool(condition) if is_readable(condition) and condition.device.type == "cpu" else None
