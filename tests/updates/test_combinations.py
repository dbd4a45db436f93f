"""Transformations inside others that nobody thought of when they were written."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import functional_train as ft
from functional_train.values import tree
from tests.profiles import examples
from tests.trees import assert_bitwise, normal

Make = Callable[[], ft.GradientTransformation]

LOOKERS: dict[str, Make] = {
    "sophia": lambda: ft.sophia(0.01, update_interval=1),
    "adahessian": lambda: ft.adahessian(0.1),
    "lbfgs": lambda: ft.lbfgs(0.1, max_iter=3),
    "searching": lambda: ft.lbfgs(max_iter=3, line_search_fn="strong_wolfe"),
}
x, y = normal(0, (20, 3)), normal(1, (20,))
params = {"w": normal(2, (3,)), "s": torch.ones((), dtype=torch.float64), "b": torch.zeros((), dtype=torch.float64)}


def loss_fn(params: Any, batch: Any = None, **owned: Any) -> torch.Tensor:
    del batch, owned
    return (torch.tanh(x @ params["w"]) * params["s"] + params["b"] - y).square().mean()


grad_fn = ft.grad_and_value(loss_fn)


def trained(optimizer: ft.GradientTransformation, start: Any, grad_fn: Any = grad_fn, steps: int = 3) -> Any:
    """The parameters after some steps, and the optimizer's state."""
    state = ft.init_state(start, optimizer, key=ft.random.key(0))
    return ft.fold(ft.make_step(grad_fn, optimizer), state, steps * [None])


@settings(max_examples=examples(30))
@given(st.sampled_from(sorted(LOOKERS)), st.sampled_from(sorted(LOOKERS)), st.sets(st.sampled_from(sorted(params))))
def test_parts_look_at_the_loss_of_their_part(one: str, other: str, chosen: set[str]) -> None:
    """A part that looks at the loss again sees whole parameters: it goes where it would on a loss of its part alone."""
    parts = {"a": LOOKERS[one](), "b": LOOKERS[other]()}
    optimizer = ft.partition(parts, lambda path, leaf: "a" if path in chosen else "b")
    start = ft.init_state(params, optimizer, key=ft.random.key(0))
    step = ft.make_step(grad_fn, optimizer)
    own = {label: part.init(_part(params, chosen, label)) for label, part in parts.items()}
    state, moved = start, params
    for _ in range(3):
        assert state.key is not None
        key = ft.random.split(state.key, 3)[2]
        state, _ = step(state, None)
        after = {}
        for label, part in parts.items():
            inside, rest = _part(moved, chosen, label), _part(moved, chosen, "b" if label == "a" else "a")
            if not tree.leaves(inside):
                continue

            def split_fn(at: Any, rest: Any = rest) -> Any:
                return ft.grad_and_value(lambda at, batch: loss_fn({**rest, **_there(at)}))(at, None)

            grads, value = split_fn(inside)
            new, own[label] = ft.make_update(part)(
                grads, own[label], inside, value=value, grad_and_value_fn=split_fn, key=key
            )
            after |= _there(new)
        moved = {name: after[name] for name in moved}
        assert_bitwise(state.params, moved)


def _part(params: Any, chosen: set[str], label: str) -> dict[str, Any]:
    return {name: leaf if (name in chosen) == (label == "a") else None for name, leaf in params.items()}


def _there(params: Any) -> dict[str, Any]:
    return {name: leaf for name, leaf in params.items() if leaf is not None}


@pytest.mark.parametrize("name", sorted(LOOKERS))
def test_what_is_frozen_or_masked_takes_part_in_the_loss(name: str) -> None:
    """Leaves that another part moves, or nobody, are filled in where a loss is looked at again."""
    for optimizer in (
        ft.freeze(LOOKERS[name](), "b"),
        ft.masked(LOOKERS[name](), "w"),
        ft.param_groups(LOOKERS[name], {"w": {}}),
        ft.accumulate_updates(ft.freeze(LOOKERS[name](), "b"), 2),
        ft.freeze(ft.freeze(LOOKERS[name](), "b"), "w"),
    ):
        new = trained(optimizer, params).params
        assert all(bool(torch.isfinite(leaf).all()) for leaf in tree.leaves(new))
        assert not torch.equal(new["s"], params["s"])


def test_the_sampled_gradient_is_that_of_the_part() -> None:
    """What the Gauss-Newton-Bartlett estimate calls is given whole parameters, and its part's gradients come back."""
    optimizer = ft.freeze(ft.sophia(0.1, estimator=ft.gauss_newton_bartlett), "b")
    seen: list[Any] = []

    def sampled_grad_fn(at: Any, key: torch.Tensor) -> tuple[Any, int]:
        del key
        seen.append(at)
        return at, 4

    extra = {"sampled_grad_fn": sampled_grad_fn, "key": ft.random.key(0)}
    new, _ = ft.make_update(optimizer)(params, optimizer.init(params), params, **extra)
    assert_bitwise(seen, [params])
    assert_bitwise(new["b"], params["b"])


def test_master_weights_show_all_parameters() -> None:
    """A leaf without a gradient is a parameter still, to what `master_weights` wraps."""
    low = tree.to(params, torch.bfloat16)

    def without(at: Any, batch: Any, **owned: Any) -> Any:
        grads, value = ft.grad_and_value(lambda at, batch: loss_fn(tree.to(at, torch.float64)))(at, batch)
        return {**grads, "s": None}, value

    parts: dict[str, Make] = {
        **LOOKERS,
        "muon": lambda: ft.muon(0.1),
        "partition": lambda: ft.partition({"a": ft.adam(0.1), "b": ft.sgd(0.1)}, {"w": "a", "*": "b"}),
    }
    for make in parts.values():
        new = trained(ft.master_weights(make()), low, without).params
        assert torch.equal(new["s"], low["s"])
        assert not torch.equal(new["b"], low["b"])


def test_galore_shows_all_parameters() -> None:
    """A leaf without a gradient is a parameter still, to what `galore` wraps."""
    start = {"w": normal(0, (4, 3)), "v": normal(1, (2, 3)), "b": normal(2, (3,))}
    grads = {"w": normal(3, (4, 3)), "v": None, "b": None}
    for inner in (ft.muon(0.1), ft.partition({"a": ft.adam(0.1), "b": ft.sgd(0.1)}, {"w": "a", "*": "b"})):
        optimizer = ft.galore(inner, rank=2)
        new, _ = ft.make_update(optimizer)(grads, optimizer.init(start), start)
        assert_bitwise({**new, "w": start["w"]}, start)
        assert not torch.equal(new["w"], start["w"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_as_tensors_keep_the_dtype_of_a_single_number(dtype: torch.dtype) -> None:
    """CAME's numbers may be tensors of float64 where a leaf has no dimensions."""
    optimizer = ft.inject_hyperparams(ft.came)(betas=(0.9, 0.999, 0.9999), eps=(1e-30, 1e-16), clip_threshold=0.5)
    start = {"s": torch.ones((), dtype=dtype), "w": torch.ones(2, 2, dtype=dtype)}
    state = optimizer.init(start)
    for _ in range(2):
        updates, new = optimizer.update(start, state, start)
        for old, leaf in zip(tree.leaves((start, state)), tree.leaves((updates, new)), strict=True):
            assert leaf.dtype is old.dtype
        state = new


def test_a_number_that_is_left_open_may_be_injected() -> None:
    """A pair of which one is `None` keeps it, and the other lives in the state."""
    optimizer, plain = ft.inject_hyperparams(ft.adafactor)(eps=(None, 1e-3)), ft.adafactor(eps=(None, 1e-3))
    state = optimizer.init(params)
    assert state.hyperparams["eps"][0] is None
    updates, state = optimizer.update(params, state, params)
    assert_bitwise(updates, plain.update(params, plain.init(params), params)[0])
    assert state.hyperparams["eps"][0] is None


@pytest.mark.parametrize("make", [ft.adam, ft.muon, ft.soap, ft.prodigy, ft.rprop, lambda: ft.chain(ft.lars())])
def test_sparse_gradients_are_refused_by_name(make: Make) -> None:
    """An optimizer that fails on a sparse gradient says whose it is, and what takes it."""
    where = torch.tensor([[0, 2]])
    sparse = torch.sparse_coo_tensor(where, torch.ones(2, 2), (4, 2), is_coalesced=True, check_invariants=True)
    start, optimizer = {"a": torch.ones(2), "e": torch.ones(4, 2)}, make()
    with pytest.raises(ft.StructureError, match=r"(?s)gradient at 'e' is torch\.sparse_coo.*ft\.sparse_adam"):
        ft.make_update(optimizer)({"a": torch.ones(2), "e": sparse}, optimizer.init(start), start)
