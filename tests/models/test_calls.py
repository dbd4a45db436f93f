"""`apply` under transforms, checkpointing, threads and tracing: wherever it is called from, it is the same function."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from functional_train.models import functionalize
from tests.global_rng import seeded
from tests.models.cases import assert_same, make, trainable


class Checkpointed(nn.Module):
    """A block that is run again on the way back."""

    def __init__(self, use_reentrant: bool | None) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 3))
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.use_reentrant is None:
            return self.block(x)
        return checkpoint(self.block, x, use_reentrant=self.use_reentrant)


def test_torch_func_transforms() -> None:
    """grad with buffers as aux, vmap over stacked members, and jacrev agree with plain autograd and a loop."""
    module, x = make("shared")
    apply, params, buffers = functionalize(module)

    def loss_fn(params: Any, buffers: Any) -> tuple[Tensor, Any]:
        output, new_buffers = apply(params, x, buffers=buffers)
        return output.square().sum(), dict(new_buffers)

    leaves = trainable(params)
    loss, expected_buffers = loss_fn(leaves, buffers)
    expected = torch.autograd.grad(loss, list(leaves.values()))
    grads, new_buffers = torch.func.grad(loss_fn, has_aux=True)(dict(params), buffers)
    assert_same(new_buffers, expected_buffers)
    for grad, jacobian, other in zip(
        grads.values(),
        torch.func.jacrev(lambda p: loss_fn(p, buffers)[0])(dict(params)).values(),
        expected,
        strict=True,
    ):
        torch.testing.assert_close(grad, other)
        torch.testing.assert_close(jacobian, other)
    members = [{name: tensor * scale for name, tensor in params.items()} for scale in (1.0, 0.5)]
    stacked, stacked_buffers = ({k: torch.stack([m[k] for m in ms]) for k in ms[0]} for ms in (members, [buffers] * 2))
    losses, vmapped_buffers = torch.func.vmap(loss_fn)(stacked, stacked_buffers)
    for index, member in enumerate(members):
        loss, new_buffers = loss_fn(member, buffers)
        torch.testing.assert_close(losses[index], loss)
        torch.testing.assert_close({k: v[index] for k, v in vmapped_buffers.items()}, new_buffers)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing_recomputes_with_the_passed_tensors(use_reentrant: bool) -> None:
    """With checkpointing inside the module, gradients are unchanged, and buffers that were returned stay as they were.

    Reentrant checkpointing supports `backward` alone, on private leaves here: torch.autograd.grad is not for it.
    """
    x = torch.linspace(-1, 1, 12).reshape(4, 3).requires_grad_()
    results = []
    for choice in (None, use_reentrant):
        with seeded(0):
            apply, params, buffers = functionalize(Checkpointed(choice))
        params = trainable(params)
        output, new_buffers = apply(params, x, buffers=buffers)
        apply({name: tensor * 2 for name, tensor in params.items()}, x, buffers=buffers)
        before = [tensor.clone() for tensor in (*buffers.values(), *new_buffers.values())]
        output.square().sum().backward()
        results.append(([tensor.grad for tensor in params.values()], dict(new_buffers)))
        if choice is not True:
            output, _ = apply(params, x, buffers=buffers)
            gradients = torch.autograd.grad(output.square().sum(), list(params.values()))
            assert_same(gradients, [tensor.grad for tensor in params.values()])
        assert_same([*buffers.values(), *new_buffers.values()], before)
    assert_same(*results)


def test_threads_do_not_see_each_other() -> None:
    """Eight threads with parameters of their own each get what they would get alone."""
    module, x = make("cnn")
    apply, params, buffers = functionalize(module)
    members = [{name: tensor + 0.1 * index for name, tensor in params.items()} for index in range(8)]
    expected = [apply(member, x, buffers=buffers) for member in members]
    failures: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            output, new_buffers = apply(members[index], x, buffers=buffers)
            same = torch.equal(output, expected[index][0])
            if not same or any(not torch.equal(new_buffers[name], expected[index][1][name]) for name in buffers):
                failures.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize(
    "case", ["shared", "lstm", "parametrized_weight_norm", pytest.param("encoder", marks=pytest.mark.slow)]
)
def test_traces_as_one_graph(case: str) -> None:
    """make_fx with fake tensors, and torch.compile without graph breaks or recompilation, reproduce apply."""
    module, x = make(case)
    apply, params, buffers = functionalize(module)

    def run(params: Any, buffers: Any, x: Tensor) -> Any:
        output, new_buffers = apply(params, x, buffers=buffers)
        return output, dict(new_buffers)

    arguments = (dict(params), dict(buffers), x)
    expected = run(*arguments)
    assert_same(make_fx(run, tracing_mode="fake")(*arguments)(*arguments), expected)
    torch.compiler.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        for _ in range(2):
            assert_same(compiled(*arguments), expected)
