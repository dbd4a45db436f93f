"""What an update function does with unusual transformations, layouts and dtypes."""

import functools
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import functional_train as ft


def test_a_wrapper_with_the_inner_name_is_the_one_that_is_called() -> None:
    """functools.wraps copies attributes of the inner update; the wrapper runs all the same."""
    inner = ft.sgd(1.0)

    @functools.wraps(inner.update)
    def update(grads: Any, state: Any, params: Any, **extra: Any) -> tuple[Any, Any]:
        updates, state = inner.update(grads, state, params, **extra)
        return ft.tree.scale(0.0, updates), state

    stopped = ft.GradientTransformation(inner.init, update)
    params, grads = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    for optimizer in (stopped, ft.chain(stopped, ft.identity())):
        assert ft.make_update(optimizer)(grads, optimizer.init(params), params)[0]["w"].item() == 0.0


def test_parameters_keep_their_layout_in_memory() -> None:
    """A transposed gradient, as einsum gives, transposes neither the parameter nor what the optimizer remembers."""
    params, grads = {"w": torch.ones(3, 5)}, {"w": torch.ones(5, 3).t()}
    for optimizer in (ft.sgd(0.1), ft.sgd(0.1, momentum=0.9), ft.adam(0.1)):
        new, state = ft.make_update(optimizer)(grads, optimizer.init(params), params)
        assert all(leaf.is_contiguous() for leaf in ft.tree.leaves((new, state)))


def test_sparse_gradients_reach_dense_parameters() -> None:
    """Plain descent takes the gradient of a sparse embedding, as torch.optim.SGD does."""
    params = {"w": torch.ones(5, 2)}
    grads = {"w": torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (5, 2), check_invariants=True)}
    new = ft.make_update(ft.sgd(0.5))(grads, ft.sgd(0.5).init(params), params)[0]["w"]
    expected = torch.ones(5, 2)
    expected[1] = 0.5
    assert torch.equal(new, expected)


def test_a_wide_tree_stays_wide_beside_a_narrow_one() -> None:
    """The first tree gives the dtype, also where the sum is computed in place."""
    wide, narrow = [torch.tensor([1 + 1e-12], dtype=torch.float64)], [torch.zeros(1)]
    assert torch.equal(ft.tree.add(wide, narrow, alpha=torch.tensor(1.0))[0], wide[0])
    assert torch.equal(ft.tree.addcdiv(wide, narrow, ft.tree.add(narrow, 1))[0], wide[0])


def test_gradients_of_another_dtype_cost_no_search() -> None:
    """Odd names and other dtypes go together: gradients are paired by position, not looked up."""
    params = ft.Params({"": torch.zeros(1), "a/b": torch.zeros(1, dtype=torch.float64)})
    grads = ft.Params({"": torch.ones(1), "a/b": torch.ones(1)})
    new = ft.make_update(ft.sgd(1.0))(grads, ft.sgd(1.0).init(params), params)[0]
    assert [leaf.dtype for leaf in new.values()] == [torch.float32, torch.float64]
    assert all(leaf.item() == -1.0 for leaf in new.values())


def test_a_misfit_is_named_beside_a_leaf_that_only_one_tree_has() -> None:
    """The path in the message is that of the leaf of another shape, also where the other tree has `None` before it."""
    params, wrong = {"a": None, "b": torch.ones(2)}, {"a": torch.ones(1), "b": torch.ones(3)}
    with pytest.raises(ft.FunctionalTrainError, match="at 'b'"):
        ft.apply_updates(params, wrong)
    with pytest.raises(ft.FunctionalTrainError, match="at 'b'"):
        ft.make_update(ft.sgd())(wrong, ft.sgd().init(params), params)


@pytest.mark.parametrize(
    "name", ["adamax", "adan", "ema_params", "lamb", "nadam", "novograd", "psgd", "radam", "stable_adamw"]
)
def test_parameters_may_lie_on_several_devices(name: str) -> None:
    """Numbers that belong to all leaves meet each on its own device, as torch.optim's do, and updates stay there.

    Fake tensors know their devices and compute nothing, so no such device has to be there.
    """
    optimizer, devices = getattr(ft, name)(), ("cuda:0", "cuda:1", "cpu")
    with FakeTensorMode():
        params = grads = [torch.ones(3, 2, device=device) for device in devices]
        state = optimizer.init(params)
        for _ in range(2):
            params, state = ft.make_update(optimizer)(grads, state, params, key=ft.random.key(0))
    assert tuple(str(leaf.device) for leaf in params) == devices
