"""`functionalize` and `merge`: a module and its pure function are the same function, and nothing is ever written to."""

import gc
import threading
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, parametrize
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from functional_train.models import functionalize, merge
from tests.global_rng import seeded
from tests.models.cases import CASES, assert_same, assert_unchanged, make, snapshot, trainable


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


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_apply_equals_the_module(case: str, train: bool) -> None:
    """Output, new buffers and gradients of apply are bitwise those of the module, whatever its own training flags say."""
    (module, x), (reference, _) = make(case), make(case)
    apply, params, buffers = functionalize(module.train(not train))
    params = trainable(params)
    output, new_buffers = apply(params, x, buffers=buffers, train=train)
    expected = reference.train(train)(x)
    assert_same(output, expected)
    assert list(params) == [name for name, _ in reference.named_parameters()]
    assert list(new_buffers) == [name for name, _ in reference.named_buffers()]
    for name, buffer in reference.named_buffers():
        assert torch.equal(new_buffers[name], buffer)
    first, first_expected = tree_leaves(output)[0], tree_leaves(expected)[0]
    gradients = torch.autograd.grad(first.square().sum(), list(params.values()))
    assert_same(gradients, torch.autograd.grad(first_expected.square().sum(), list(reference.parameters())))


@pytest.mark.parametrize("case", sorted(set(CASES) - {"traced"}))  # a copied GraphModule has no hooks
def test_nothing_is_written_to(case: str) -> None:
    """A call changes neither module nor params nor buffers, and a second one gives the same; also if the forward raises."""
    module, x = make(case)
    raising: list[str] = []

    def fail(*_: Any) -> None:
        if raising:
            raise RuntimeError(raising[0])

    module.register_forward_hook(fail)
    before_functionalize = snapshot(module)
    apply, params, buffers = functionalize(module)
    assert_unchanged(before_functionalize, snapshot(module))
    before = snapshot(module, params, buffers)
    outputs = [apply(params, x, buffers=buffers) for _ in range(2)]
    assert_same(*[(output, list(new_buffers.values())) for output, new_buffers in outputs])
    raising.append("too late")
    with pytest.raises(RuntimeError, match="too late"):
        apply(params, x, buffers=buffers)
    assert_unchanged(before, snapshot(module, params, buffers))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.booleans())
def test_any_sharing_of_submodules(order: list[int], train: bool) -> None:
    """For every way to use layers several times, names are those of torch and the result is that of the module."""

    def build() -> nn.Module:
        with seeded(1):
            pool = [nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 3, bias=False)]
            pool += [nn.Sequential(pool[0], pool[1]), nn.Sequential(pool[3], nn.Sequential(pool[1]))]
            return nn.Sequential(*(pool[index] for index in order))

    module, reference = build(), build().train(train)
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    apply, params, buffers = functionalize(module)
    output, new_buffers = apply(params, x, buffers=buffers, train=train)
    assert torch.equal(output, reference(x))
    assert list(params) == [name for name, _ in module.named_parameters()]
    assert {name: tensor.tolist() for name, tensor in new_buffers.items()} == {
        name: tensor.tolist() for name, tensor in reference.named_buffers()
    }
    assert_same(list(merge(module, params, buffers).state_dict().values()) or [x], list(module.state_dict().values()) or [x])


def test_train_may_be_a_predicate() -> None:
    """A predicate on paths freezes one BatchNorm and leaves the rest in training."""
    module, x = make("resnet")
    apply, params, buffers = functionalize(module)
    seen: list[str] = []
    _, new_buffers = apply(params, x, buffers=buffers, train=lambda path: seen.append(path) or path != "1.bn2")
    changed = {name.rsplit(".", 1)[0] for name in buffers if not torch.equal(buffers[name], new_buffers[name])}
    assert changed == {"0.bn1", "0.bn2", "1.bn1"}
    assert sorted(seen) == sorted(path for path, _ in module.named_modules())


def test_other_methods_and_non_persistent_buffers() -> None:
    """`method=` calls another method; buffers outside of state_dict belong to the buffers all the same."""

    class Encoder(nn.Linear):
        def encode(self, x: Tensor, *, twice: bool = False) -> Tensor:
            return self(self(x) + self.offset) if twice else self(x)

    with seeded(0):
        module = Encoder(3, 3)
    module.register_buffer("offset", torch.ones(3), persistent=False)
    apply, params, buffers = functionalize(module, method="encode")
    x = torch.ones(2, 3)
    assert list(buffers) == ["offset"]
    assert torch.equal(apply(params, x, twice=True, buffers=buffers)[0], module.encode(x, twice=True))


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
        grads.values(), torch.func.jacrev(lambda p: loss_fn(p, buffers)[0])(dict(params)).values(), expected, strict=True
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


@pytest.mark.parametrize("case", ["shared", "lstm", "encoder", "parametrized_weight_norm"])
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


@pytest.mark.parametrize("case", CASES)
def test_only_the_caller_keeps_weights_alive(case: str) -> None:
    """Without a garbage collection, the module's tensors die with the module, and passed ones with their last name."""
    module, x = make(case)
    apply, params, buffers = functionalize(module)
    own = [weakref.ref(tensor) for tensor in (*module.parameters(), *module.buffers())]
    gc.collect()
    gc.disable()
    try:
        output = apply(params, x, buffers=buffers)
        passed = [weakref.ref(tensor) for tensor in (*params.values(), *buffers.values(), *tree_leaves(output[0]))]
        del params, buffers, output
        assert [reference() for reference in passed] == [None] * len(passed)
    finally:
        gc.enable()
    del module
    gc.collect()  # a module may hold itself
    assert [reference() for reference in own] == [None] * len(own)


def test_calls_inside_parametrize_cached() -> None:
    """torch's cache of parametrized weights, which goes by the id of a module, never hands one call's weight to another."""
    with seeded(0):
        module = parametrizations.weight_norm(nn.Linear(3, 3))
    apply, params, _ = functionalize(module)
    x = torch.ones(1, 3)
    members = [{name: tensor * (index + 1) for name, tensor in params.items()} for index in range(20)]
    expected = [apply(member, x) for member in members]
    with parametrize.cached():
        assert_same([apply(member, x) for member in members], expected)


@pytest.mark.parametrize("case", sorted(set(CASES) - {"traced"}))
def test_merge_gives_a_module_that_holds_the_values(case: str) -> None:
    """merge changes nothing, keeps ties and flags, and functionalize gives the values back."""
    module, x = make(case)
    apply, params, buffers = functionalize(module.eval())
    next(module.parameters()).requires_grad_(False)
    params, buffers = ({k: v * 2 if v.is_floating_point() else v for k, v in t.items()} for t in (params, buffers))
    before = snapshot(module, params, buffers)
    merged = merge(module, params, buffers)
    own = merge(module, params)
    assert_unchanged(before, snapshot(module, params, buffers))
    assert type(merged) is type(module)
    assert not any(submodule.training for submodule in merged.modules())
    assert [p.requires_grad for p in merged.parameters()] == [p.requires_grad for p in module.parameters()]
    assert_same([*functionalize(own).buffers.values(), x], [*module.buffers(), x])
    _, again, buffers_again = functionalize(merged)
    assert list(again) == list(params)
    assert_same([*again.values(), *buffers_again.values()], [*params.values(), *buffers.values()])
    assert_same(merged(x), apply(dict(merged.named_parameters()), x, buffers=buffers, train=False)[0])
    given = {tensor.data_ptr() for tensor in (*params.values(), *buffers.values(), *module.parameters())}
    assert not given & {tensor.data_ptr() for tensor in (*merged.parameters(), *merged.buffers())}


def test_renormalizing_embedding() -> None:
    """Embedding with max_norm looks up renormalized rows; the gradient is that of the module, the row stays the caller's."""
    (module, ids), (reference, _) = make("max_norm"), make("max_norm")
    apply, params, _ = functionalize(module)
    kept = params["weight"].clone()
    leaves = trainable(params)
    gradient = torch.autograd.grad(apply(leaves, ids).square().sum(), leaves["weight"])
    assert_same(gradient, torch.autograd.grad(reference(ids).square().sum(), reference.weight))
    assert torch.equal(params["weight"], kept)
    assert not torch.equal(reference.weight, kept)
