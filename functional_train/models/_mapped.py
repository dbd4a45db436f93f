"""Modules of torch that write where `vmap` cannot: the same numbers, written in a way that it can."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch._C._functorch import peek_interpreter_stack
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.overrides import TorchFunctionMode

T = TypeVar("T")
_normalize = torch.nn.functional.normalize


class _CopiedOut(TorchFunctionMode):
    """`normalize(..., out=)`, which spectral norms call and `vmap` has no rule for, as a copy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        out = kwargs.pop("out", None) if func is _normalize else None
        if out is None:
            return func(*args, **kwargs)
        return out.copy_(func(*args, **kwargs))


def writes_norms(module: nn.Module) -> bool:
    """Whether a spectral norm is in a module, of the older kind, a hook, or the newer, a parametrization."""
    return any(
        isinstance(part, _SpectralNorm)
        or any(isinstance(hook, SpectralNorm) for hook in part._forward_pre_hooks.values())
        for part in module.modules()
    )


def mappable(run: Callable[[], T]) -> Callable[[], T]:
    """Have a forward write its norms so that it can be mapped over."""

    def run_mapped() -> T:
        if peek_interpreter_stack() is None:
            return run()
        with _CopiedOut():
            return run()

    return run_mapped
