"""`functionalize` and `merge`: a module and its pure function are the same function, and nothing is ever written to."""

import gc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils._pytree import tree_leaves

from functional_train.models import functionalize, merge
from tests.global_rng import seeded
from tests.models.cases import CASES, assert_same, assert_unchanged, make, snapshot, trainable


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_apply_equals_the_module(case: str, train: bool) -> None:
    """Output, new buffers and gradients are bitwise those of the module, whatever its own training flags say."""
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
    """A call changes neither module nor params nor buffers, nor does one that raises; a second one gives the same."""
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
    assert_same(
        list(merge(module, params, buffers).state_dict().values()) or [x], list(module.state_dict().values()) or [x]
    )


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
    """torch's cache of parametrized weights, which goes by the id of a module, hands no call the weight of another."""
    with seeded(0):
        module = parametrizations.weight_norm(nn.Linear(3, 3))
    apply, params, _ = functionalize(module)
    x = torch.ones(1, 3)
    members = [{name: tensor * (index + 1) for name, tensor in params.items()} for index in range(20)]
    expected = [apply(member, x) for member in members]
    with parametrize.cached():
        assert_same([apply(member, x) for member in members], expected)


def test_renormalizing_embedding() -> None:
    """Embedding with max_norm looks up renormalized rows and has the module's gradient; params keep theirs."""
    (module, ids), (reference, _) = make("max_norm"), make("max_norm")
    apply, params, _ = functionalize(module)
    kept = params["weight"].clone()
    leaves = trainable(params)
    gradient = torch.autograd.grad(apply(leaves, ids).square().sum(), leaves["weight"])
    assert_same(gradient, torch.autograd.grad(reference(ids).square().sum(), reference.weight))
    assert torch.equal(params["weight"], kept)
    assert not torch.equal(reference.weight, kept)
