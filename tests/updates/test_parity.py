"""sgd, adam and adamw are torch.optim's, option set by option set."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing._internal.common_optimizers import optim_db

import functional_train as ft
from functional_train.updates.optimizers._adam import _plain
from functional_train.values.tree._fused import AdamNumbers, fused_adam
from tests.profiles import examples
from tests.trees import (
    SHAPES,
    assert_bitwise,
    assert_close,
    like,
    nestings,
    normal,
    relative_difference,
    seeds,
    tensors,
)

FACTORIES = {"SGD": ft.sgd, "Adam": ft.adam, "AdamW": ft.adamw}
IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}
NUM_STEPS = 30

OPTION_SETS = {
    f"{info.optim_cls.__name__}-{options.desc}": (info.optim_cls, options.kwargs)
    for info in optim_db
    if info.optim_cls.__name__ in FACTORIES
    for options in info.optim_inputs_func("cpu")
}
OPTION_SETS |= {
    "SGD-everything": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    "SGD-tensor lr": (torch.optim.SGD, {"lr": torch.tensor(0.01), "momentum": 0.8, "nesterov": True}),
    "Adam-everything": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    "Adam-decoupled": (torch.optim.Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "Adam-no memory": (torch.optim.Adam, {"betas": (0.0, 0.0), "eps": 1e-3}),
    "AdamW-everything": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.2, "amsgrad": True, "maximize": True}),
}


def test_every_option_of_torch_is_tried() -> None:
    """The options that torch's own tests know, without those that choose an implementation, are keywords of ours."""
    for factory, (cls, kwargs) in ((FACTORIES[c.__name__], (c, k)) for c, k in OPTION_SETS.values()):
        factory(**{name: value for name, value in kwargs.items() if name not in IMPLEMENTATION})
        assert cls.__name__.lower() == factory.__name__


def gradient(seed: int, place: int, step: int, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """None, zeros, huge, tiny or ordinary, by the bits of a seed."""
    mixed = (seed * 7919 + place * 104729 + step * 1299709) % 2**31
    kind = mixed % 8
    if kind == 0:
        return None
    return {1: 0.0, 2: 1e6, 3: 1e-10}.get(kind, 1.0) * normal(mixed, shape, dtype)


def named(reference: torch.optim.Optimizer, params: Any) -> dict[str, torch.Tensor]:
    """The parameters that torch's state is kept for, by the names that they have here."""
    return dict(zip(params, reference.param_groups[0]["params"], strict=True))


def trajectories(
    name: str,
    seed: int,
    dtype: torch.dtype,
    num_steps: int = NUM_STEPS,
    implementation: Mapping[str, bool] = MappingProxyType({"foreach": False}),
) -> Any:
    """Parameters and moments after every step, ours and those of one of torch's implementations.

    The fused SGD fails where only some leaves have had a gradient, so there all have one at the first step.
    """
    cls, options = OPTION_SETS[name]
    kwargs = {option: value for option, value in options.items() if option not in IMPLEMENTATION}
    params: Any = {f"w{place}": normal(seed + place, shape, dtype) for place, shape in enumerate(SHAPES)}
    theirs = {path: torch.nn.Parameter(leaf.clone()) for path, leaf in params.items()}
    reference = cls(list(theirs.values()), **kwargs, **implementation)
    optimizer = FACTORIES[cls.__name__](**kwargs)
    update_fn, state = ft.make_update(optimizer), optimizer.init(params)
    for step in range(num_steps):
        grads = {
            path: gradient(seed, place, step, tuple(leaf.shape), dtype)
            for place, (path, leaf) in enumerate(params.items())
        }
        if step == 0 and "fused" in implementation:
            grads = {path: torch.ones_like(params[path]) if grad is None else grad for path, grad in grads.items()}
        for path, parameter in theirs.items():
            parameter.grad = None if grads[path] is None else grads[path].clone()
        reference.step()
        params, state = update_fn(grads, state, params)
        yield params, state, {path: parameter.detach() for path, parameter in theirs.items()}, reference


@pytest.mark.parametrize("name", OPTION_SETS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Each of the 30 steps rounds a handful of times, relative to the largest value that a leaf has had.
    [(torch.float64, 1e-12), (torch.float32, 2e-6)],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_torch_optim(name: str, dtype: torch.dtype, tolerance: float, seed: int) -> None:
    """Parameters of every shape follow torch's for-loop, through zero, huge, tiny and absent gradients."""
    scale = dict.fromkeys((f"w{place}" for place in range(len(SHAPES))), 0.0)
    for params, _, theirs, _ in trajectories(name, seed, dtype):
        for path, expected in theirs.items():
            scale[path] = max(scale[path], expected.abs().max().item() if expected.numel() else 0.0)
            assert params[path].dtype == dtype
            assert relative_difference(params[path], expected, scale[path]) <= tolerance, path


@pytest.mark.parametrize("name", [name for name, (_, kwargs) in OPTION_SETS.items() if "dampening" not in kwargs])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_whole_updates_are_torchs_fused_ones(name: str, dtype: torch.dtype) -> None:
    """Where torch has a kernel, `make_update` gives the very bits of `fused=True`, parameters and moments."""
    for params, state, theirs, reference in trajectories(name, 5, dtype, implementation={"fused": True}):
        assert_bitwise(params, theirs)
        for part in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"):
            moments = {path: reference.state[leaf].get(part) for path, leaf in named(reference, theirs).items()}
            if any(moment is not None for moment in moments.values()):
                ours = ft.tree.get(state, part)
                assert_bitwise(*[{k: one[k] for k, v in moments.items() if v is not None} for one in (ours, moments)])


@pytest.mark.parametrize("name", ["Adam-amsgrad", "AdamW-everything", "Adam-default", "SGD-everything"])
def test_moments_equal_torch_optims(name: str) -> None:
    """Every part of the state is torch's, and a leaf counts the steps at which it had a gradient."""
    for _, state, _, reference in trajectories(name, 3, torch.float64):  # noqa: B007
        pass
    theirs = [reference.state[parameter] for parameter in reference.param_groups[0]["params"]]
    for part in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"):
        if part in theirs[0]:
            ours = ft.tree.get(state, part)
            for place, torchs in enumerate(theirs):
                assert relative_difference(ours[f"w{place}"], torchs[part]) <= 1e-12, part
    if "step" in theirs[0]:
        assert ft.tree.get(state, "step").tolist() == [int(torchs["step"]) for torchs in theirs]


@settings(max_examples=examples(30))
@given(nestings(tensors()), seeds(), st.sampled_from(sorted(OPTION_SETS)), st.data())
def test_equals_torch_optim_on_any_tree(params: Any, seed: int, name: str, data: st.DataObject) -> None:
    """Containers play no part: random trees follow torch.optim too."""
    cls, options = OPTION_SETS[name]
    kwargs = {option: value for option, value in options.items() if option not in IMPLEMENTATION}
    leaves, structure = ft.tree.flatten(params)
    theirs = [torch.nn.Parameter(leaf.clone()) for leaf in leaves]
    reference = cls(theirs, **kwargs, foreach=False)
    optimizer = FACTORIES[cls.__name__](**kwargs)
    state = optimizer.init(params)
    for step in range(4):
        absent = data.draw(st.sets(st.integers(0, len(leaves) - 1)))
        grads = [None if place in absent else like(seed + step, leaf) for place, leaf in enumerate(leaves)]
        for parameter, grad in zip(theirs, grads, strict=True):
            parameter.grad = None if grad is None else grad.clone()
        reference.step()
        params, state = ft.make_update(optimizer)(ft.tree.unflatten(structure, grads), state, params)
    assert_close(params, ft.tree.unflatten(structure, [parameter.detach() for parameter in theirs]), 1e-12)


@pytest.mark.parametrize("name", ["SGD-momentum", "Adam-default", "Adam-amsgrad", "AdamW-default"])
def test_complex_parameters_equal_torch_optim(name: str) -> None:
    """A complex number is two real ones to Adam, and one to SGD, as in torch.optim."""
    cls, options = OPTION_SETS[name]
    params = {"z": torch.complex(normal(0, (5,)), normal(1, (5,))), "w": normal(2, (5,))}
    theirs = [torch.nn.Parameter(leaf.clone()) for leaf in params.values()]
    reference, optimizer = cls(theirs, **options, foreach=False), FACTORIES[cls.__name__](**options)
    state = optimizer.init(params)
    for step in range(10):
        z, w = theirs
        loss = ((z * 1j).abs() ** 2).sum() * (step + 1) + (w**2).sum() + (z.conj() * w).real.sum()
        z.grad, w.grad = torch.autograd.grad(loss, [z, w])
        grads = {"z": z.grad.clone().conj().resolve_conj().conj(), "w": w.grad.clone()}  # conjugation is lazy
        reference.step()
        params, state = ft.make_update(optimizer)(grads, state, params)
    assert_close(params, {"z": theirs[0].detach(), "w": theirs[1].detach()}, 1e-12)


@given(
    st.lists(tensors(), min_size=1, max_size=4),
    seeds(),
    st.booleans(),
    st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.99, 0.0)]),
    st.sampled_from([1e-8, 0.0, 0.1]),
    st.booleans(),
)
def test_the_two_ways_to_compute_adam_agree(
    params: Any, seed: int, amsgrad: bool, betas: Any, eps: float, absent: bool
) -> None:
    """torch's kernel and the arithmetic over trees give one direction and one set of moments."""
    grads = like(seed, params)
    if absent:
        grads[0] = None
    _, g = ft.tree.flat(params, grads)
    moments = [ft.tree.map(torch.abs, like(seed + place, params)) for place in range(3 if amsgrad else 2)]
    step = torch.arange(1, 1 + len(params))
    columns = g.beside(*moments)
    fused = fused_adam(g, columns, step, AdamNumbers(-1.0, betas, eps))
    if not g.leaves:
        assert fused is None
        return
    assert fused is not None
    plain = _plain(g, columns, step, betas, eps)
    assert_close(fused[0].tree(), plain[0].tree(), 1e-13)
    assert_close([column.tree() for column in fused[1]], [column.tree() for column in plain[1]], 1e-14)


@pytest.mark.parametrize("name", ["SGD-momentum", "Adam-default", "AdamW-amsgrad"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_near_as_torchs(name: str, dtype: torch.dtype) -> None:
    """Sixteen-bit parameters and moments keep their dtype and stay no farther from float64 than torch's for-loop."""
    cls, options = OPTION_SETS[name]
    exact = {"w": normal(0, (64,))}
    params = ft.tree.to(exact, dtype)
    exact = ft.tree.to(params, torch.float64)
    parameter = torch.nn.Parameter(params["w"].clone())
    reference, optimizer = cls([parameter], **options, foreach=False), FACTORIES[cls.__name__](**options)
    update_fn, state, exact_state = ft.make_update(optimizer), optimizer.init(params), optimizer.init(exact)
    for step in range(NUM_STEPS):
        grads = ft.tree.to({"w": normal(step, (64,))}, dtype)
        parameter.grad = grads["w"].clone()
        reference.step()
        params, state = update_fn(grads, state, params)
        exact, exact_state = update_fn(ft.tree.to(grads, torch.float64), exact_state, exact)
    assert {leaf.dtype for leaf in ft.tree.leaves((params, state)) if leaf.is_floating_point()} == {dtype}
    ours = (params["w"].double() - exact["w"]).norm()
    torchs = (parameter.detach().double() - exact["w"]).norm()
    # Both walk at random on the grid of the dtype; neither systematically nearer.
    assert ours <= 1.25 * torchs


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 3.0, 1e9])
@given(params=nestings(tensors()))
@settings(max_examples=examples(20))
def test_clipping_equals_torchs(params: Any, max_norm: float) -> None:
    """clip_by_global_norm is clip_grad_norm_ on a copy."""
    theirs = [torch.nn.Parameter(leaf.clone()) for leaf in ft.tree.leaves(params)]
    for parameter, grad in zip(theirs, ft.tree.leaves(params), strict=True):
        parameter.grad = grad.clone()
    torch.nn.utils.clip_grad_norm_(theirs, max_norm, foreach=False)
    ours, _ = ft.clip_by_global_norm(max_norm).update(params, ft.EmptyState(), params)
    assert_close(ft.tree.leaves(ours), [parameter.grad for parameter in theirs], 1e-15)


def test_a_leaf_without_gradients_rests() -> None:
    """When no leaf has a gradient, nothing moves, the counts included."""
    params = {"a": normal(0, (3,)), "b": normal(1, (2, 2))}
    for name, (cls, options) in OPTION_SETS.items():
        kwargs = {option: value for option, value in options.items() if option not in IMPLEMENTATION}
        optimizer = FACTORIES[cls.__name__](**kwargs)
        moved, state = ft.make_update(optimizer)(like(2, params), optimizer.init(params), params)
        nothing = {"a": None, "b": None}
        assert_bitwise(ft.make_update(optimizer)(nothing, state, moved), (moved, state))
        assert_bitwise(optimizer.update(nothing, state, moved), (nothing, state)), name
