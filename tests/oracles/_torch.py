"""Optimizers written as `torch.optim.Optimizer`, whichever library they come from."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tests.oracles._writing import Points, Spec
from tests.oracles.problem import GRADIENTS, HESSIANS, LOSSES, NUM_STEPS, Tree, start


class _Leaves(nn.Module):
    """The parameters as a module, for what asks for one."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        for leaf, value in tree.items():
            self.register_parameter(leaf, nn.Parameter(value))


class Run:
    """One case on one problem: parameters, and how their gradients come to be."""

    def __init__(self, spec: Spec, problem: str, names: Mapping[str, Any]) -> None:
        self.spec, self.problem = spec, problem
        self.model = _Leaves(start(spec.leaves))
        self.named = dict(self.model.named_parameters())
        self.params = list(self.named.values())
        given = {"params": self.params, "model": self.model, "groups": self._groups(), "grouped": self._grouped}
        self.names = {**names, **given}

    def make(self) -> Any:
        """The optimizer that the call stands for."""
        optimizer = eval(self.spec.call, self.names)
        for group in optimizer.param_groups:
            # One leaf after another: the reading of the rules follows that path.
            if "foreach" in group:
                group["foreach"] = False
        if getattr(optimizer, "foreach", None) is None:
            optimizer.foreach = False
        return optimizer

    def tree(self) -> Tree:
        """Copies of the parameters."""
        return {leaf: param.detach().clone() for leaf, param in self.named.items()}

    def fill(self, step: int) -> None:
        """Set the gradients of this step at the parameters as they are."""
        for leaf, grad in GRADIENTS[self.problem](step, self.tree()).items():
            self.named[leaf].grad = grad.clone()

    def hessian(self, step: int) -> list[Tensor]:
        """Hessian diagonals in the order of the parameters."""
        return list(HESSIANS[self.problem](step, self.tree()).values())

    def closure(self, step: int) -> Callable[[], float]:
        """A loss that fills the gradients when called."""

        def loss_fn() -> float:
            self.fill(step)
            return LOSSES[self.problem](step, self.tree())

        return loss_fn

    def _groups(self) -> list[dict[str, Any]]:
        matrices = [param for param in self.params if param.ndim >= 2]
        others = [param for param in self.params if param.ndim < 2]
        return [{"params": matrices, "use_muon": True}, {"params": others, "use_muon": False}]

    def _grouped(self, **options: Any) -> list[dict[str, Any]]:
        return [{"params": self.params, **options}]


def plain(run: Run) -> Iterator[Points]:
    """Gradients, step."""
    optimizer = run.make()
    for step in range(1, NUM_STEPS + 1):
        run.fill(step)
        optimizer.step()
        yield {"params": run.tree()}


def with_hessian(run: Run) -> Iterator[Points]:
    """Gradients, step with a Hessian diagonal."""
    optimizer = run.make()
    for step in range(1, NUM_STEPS + 1):
        run.fill(step)
        optimizer.step(hessian=run.hessian(step))
        yield {"params": run.tree()}


def two_steps(run: Run) -> Iterator[Points]:
    """Climb, gradients there, step from where the climb began."""
    optimizer = run.make()
    for step in range(1, NUM_STEPS + 1):
        run.fill(step)
        optimizer.step(run.closure(step))
        yield {"params": run.tree()}


def schedule_free(run: Run) -> Iterator[Points]:
    """Gradients at the training point, step; both points."""
    optimizer = run.make()
    optimizer.train()
    for step in range(1, NUM_STEPS + 1):
        run.fill(step)
        optimizer.step()
        at_training = run.tree()
        optimizer.eval()
        at_eval = run.tree()
        optimizer.train()
        with torch.no_grad():
            for leaf, value in at_training.items():
                run.named[leaf].copy_(value)  # the way there and back rounds
        yield {"params": at_training, "eval_params": at_eval}


def filtered(run: Run) -> Iterator[Points]:
    """Gradients through a filter with memory, then SGD with lr 0.05."""
    optimizer = torch.optim.SGD(run.params, lr=0.05)
    memory = None
    for step in range(1, NUM_STEPS + 1):
        run.fill(step)
        memory = eval(run.spec.call, {**run.names, "memory": memory})
        optimizer.step()
        yield {"params": run.tree()}


def leaf_by_leaf(run: Run) -> Iterator[Points]:
    """Gradients through a function of one leaf, then SGD with lr 0.1."""
    optimizer = torch.optim.SGD(run.params, lr=0.1)
    for step in range(1, NUM_STEPS + 1):
        run.fill(step)
        with torch.no_grad():
            for param in run.params:
                changed = eval(run.spec.call, {**run.names, "p": param, "grad": param.grad})
                # Some work in place and return nothing.
                param.grad = param.grad if changed is None else changed
        optimizer.step()
        yield {"params": run.tree()}


DRIVERS: dict[str, Callable[[Run], Iterator[Points]]] = {
    "plain": plain,
    "hessian": with_hessian,
    "sam": two_steps,
    "schedule_free": schedule_free,
    "filtered": filtered,
    "leaf_by_leaf": leaf_by_leaf,
}


@contextlib.contextmanager
def float32_is_float64() -> Iterator[None]:
    """Make libraries that cast to float32 cast to float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(Tensor, "float", Tensor.double):
            yield
    finally:
        torch.set_default_dtype(default)
