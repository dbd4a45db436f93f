"""Settings of the process on which numbers depend."""

from collections.abc import Callable
from typing import Any

import torch


def settings() -> tuple[Any, ...]:
    """Their values now; a graph bakes them in."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cpu"),
        torch.get_autocast_dtype("cuda"),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        torch._C._get_flash_sdp_enabled(),
        torch._C._get_mem_efficient_sdp_enabled(),
        torch._C._get_math_sdp_enabled(),
        torch._C._get_cudnn_sdp_enabled(),
        torch.get_default_device() if torch._C._len_torch_function_stack() else None,
        torch._C._len_torch_function_stack(),
    )


# What each entry is called.
SETTINGS = (
    "grad mode",
    "inference mode",
    "the default dtype",
    "autocast on CPU",
    "autocast on CUDA",
    "autocast's dtype on CPU",
    "autocast's dtype on CUDA",
    "deterministic algorithms",
    "float32 matmul precision",
    "the number of threads",
    "flash attention",
    "memory-efficient attention",
    "math attention",
    "cuDNN attention",
    "the default device",
    "the number of active torch function modes",
)
# In the order of SETTINGS; inference mode ends with the object that began it.
_SETTERS: tuple[Callable[[Any], Any], ...] = (
    torch.set_grad_enabled,
    lambda value: None,
    torch.set_default_dtype,
    lambda value: torch.set_autocast_enabled("cpu", value),
    lambda value: torch.set_autocast_enabled("cuda", value),
    lambda value: torch.set_autocast_dtype("cpu", value),
    lambda value: torch.set_autocast_dtype("cuda", value),
    torch.use_deterministic_algorithms,
    torch.set_float32_matmul_precision,
    torch.set_num_threads,
    torch.backends.cuda.enable_flash_sdp,
    torch.backends.cuda.enable_mem_efficient_sdp,
    torch.backends.cuda.enable_math_sdp,
    torch.backends.cuda.enable_cudnn_sdp,
    torch.set_default_device,
)


def restore_settings(before: tuple[Any, ...]) -> None:
    """Bring the process back to what `settings` was."""
    for setter, old, new in zip(_SETTERS, before, settings(), strict=False):
        if old != new:
            setter(old)
    while torch._C._len_torch_function_stack() > before[-1]:
        torch._C._pop_torch_function_stack()
