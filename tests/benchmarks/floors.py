"""What no training step does without: its matrix products and convolutions, and one pass over its state."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from tests.benchmarks.figures import Figures
from tests.benchmarks.processes import System, workers
from tests.benchmarks.systems import Advance
from tests.benchmarks.workloads import Batch, loss_of

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")
_ATTENTION = "scaled_dot_product"
# AdamW reads gradient, parameter and two moments of a number, and writes all but the gradient: 28 bytes.
_NUMBERS_COPIED = 3.5
MODULE = "tests.benchmarks.floors"


class _Products(TorchDispatchMode):
    """Keeps the calls of products, with arguments of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        out = func(*args, **(kwargs or {}))
        if name in _PRODUCTS or _ATTENTION in name:
            own = tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, (args, kwargs or {}))
            self.calls.append(lambda: func(*own[0], **own[1]))
        return out


def products(module: nn.Module) -> Advance:
    """The products of one step, forward and backward, and nothing between them."""
    calls: list[Callable[[], Any]] = []

    def advance(batch: Batch) -> Tensor:
        if not calls:
            inputs, targets = batch
            with _Products() as kept:
                loss_of(module(inputs), targets).backward()
            calls.extend(kept.calls)
        with torch.no_grad():
            for call in calls:
                call()
        return torch.zeros(())

    return advance


def one_pass(module: nn.Module) -> Advance:
    """Read and write as many bytes as AdamW has to."""
    numbers = sum(leaf.numel() for leaf in module.parameters())
    source = torch.zeros(round(_NUMBERS_COPIED * numbers))
    target = torch.empty_like(source)

    def advance(batch: Batch) -> Tensor:
        del batch
        return target.copy_(source)[0]

    return advance


def beside_floors(rows: Sequence[Figures], threads: int) -> list[str]:
    """State each system of a workload beside its floor."""
    systems = {"products": System(f"{MODULE}:products"), "pass": System(f"{MODULE}:one_pass")}
    lines = ["", "the matrix products alone, one pass over the state's bytes, and each system as a multiple of both:"]
    for workload in dict.fromkeys(row.workload for row in rows):
        with workers(systems, workload, threads) as group:
            parts = [
                1e3 * min(group[name].ask("block", 3 if workload.endswith("numbers") else 30)["wall"] for _ in range(5))
                for name in systems
            ]
        own = [f"{row.system} {row.milliseconds / sum(parts):.2f}" for row in rows if row.workload == workload]
        lines.append(f"  {workload:<12} {parts[0]:.3f} + {parts[1]:.3f} ms: {', '.join(own)}")
    return lines
