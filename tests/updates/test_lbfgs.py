"""lbfgs is torch.optim.LBFGS, with and without its line search."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from scipy.optimize import minimize
from torch import Tensor
from torch.testing._internal.common_optimizers import optim_db

import functional_train as ft
from functional_train import testing
from functional_train.testing.laws import LAWS, check_law
from functional_train.updates.optimizers._strong_wolfe import Point, strong_wolfe
from tests.global_rng import seeded
from tests.profiles import examples
from tests.references.torch_special import lbfgs_on_quadratic
from tests.trees import assert_bitwise, assert_close, normal, relative_difference, seeds

(INFO,) = [info for info in optim_db if info.optim_cls is torch.optim.LBFGS]
OPTION_SETS: dict[str, dict[str, Any]] = {one.desc: one.kwargs for one in INFO.optim_inputs_func("cpu")}
OPTION_SETS |= {
    "short history": {"lr": 0.5, "history_size": 2, "max_iter": 7},
    "few looks": {"max_eval": 3},
    "one look": {"max_eval": 1, "line_search_fn": "strong_wolfe"},
    "searches little": {"max_eval": 5, "line_search_fn": "strong_wolfe", "lr": 0.01},
    "searches far": {"max_iter": 4, "line_search_fn": "strong_wolfe", "lr": 20.0, "history_size": 3},
    "tolerant": {"tolerance_change": 1e-2, "tolerance_grad": 1e-1, "line_search_fn": "strong_wolfe"},
    "one iteration": {"max_iter": 1, "lr": 0.1},
}

Loss = Callable[[Any], Tensor]
INPUTS, TARGETS = normal(0, (40, 4)), (normal(0, (40, 4)) @ normal(1, (4,)) + normal(2, (40,)) > 0).double()
HESSIAN = normal(3, (4, 4)) @ normal(3, (4, 4)).T + torch.eye(4, dtype=torch.float64)


def rosenbrock(x: Tensor) -> Tensor:
    return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()


def quadratic(x: Tensor) -> Tensor:
    return x @ HESSIAN.to(x.dtype) @ x / 2 - x.sum()


def logistic(x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(INPUTS.to(x.dtype) @ x, TARGETS.to(x.dtype)) + 0.01 * x.square().sum()


PROBLEMS: dict[str, tuple[Loss, Tensor]] = {
    "rosenbrock": (rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64)),
    "quadratic": (quadratic, torch.ones(4, dtype=torch.float64)),
    "logistic": (logistic, torch.zeros(4, dtype=torch.float64)),
}


def run(loss: Loss, start: Any, options: dict[str, Any], num_steps: int = 10) -> Any:
    """Parameters and state after every update, and those of torch."""
    leaves, structure = ft.tree.flatten(start)
    theirs = [torch.nn.Parameter(leaf.clone()) for leaf in leaves]
    reference = torch.optim.LBFGS(theirs, **options)
    optimizer = ft.lbfgs(**options)
    step = ft.make_step(ft.grad_and_value(lambda params, batch: loss(params)), optimizer)
    state = ft.init_state(start, optimizer)

    def closure() -> Tensor:
        reference.zero_grad()
        value = loss(ft.tree.unflatten(structure, theirs))
        value.backward()
        return value

    for _ in range(num_steps):
        first = reference.step(closure).detach()
        state, metrics = step(state, None)
        # Losses are sums of terms of size 1 that nearly cancel, in float32 too.
        if first.dtype.itemsize > 2:
            assert (metrics["loss"] - first).abs() <= 1e-5 * max(1.0, float(first))
        yield (
            state,
            ft.tree.unflatten(structure, [leaf.detach().clone() for leaf in theirs]),
            reference.state[theirs[0]],
        )


def in_dtype(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {name: one.to(dtype) if isinstance(one, Tensor) else one for name, one in options.items()}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", OPTION_SETS)
def test_equals_torch_optim(problem: str, name: str) -> None:
    """Ten updates in float64, counts of iterations and losses, and everything that is remembered, are torch's."""
    loss, start = PROBLEMS[problem]
    options = in_dtype(OPTION_SETS[name], torch.float64)
    reached = list(run(loss, start, options))
    for state, theirs, _ in reached:
        assert_close(state.params, theirs, 1e-12)
    ours, memory = reached[-1][0].opt_state, reached[-1][2]
    assert (int(ours.n_iter), int(ours.func_evals)) == (memory["n_iter"], memory["func_evals"])
    used = len(memory["old_dirs"])
    assert int((ours.ro > 0).sum()) == used
    for found, kept in ((ours.old_dirs, "old_dirs"), (ours.old_stps, "old_stps"), (ours.ro, "ro")):
        rows = memory[kept] if used else found[:0]
        assert not found[: len(found) - used].any()
        for one, other in zip(found[len(found) - used :], rows, strict=True):
            assert relative_difference(one, other) <= 1e-9, kept
    for found, kept in ((ours.d, "d"), (ours.prev_flat_grad, "prev_flat_grad")):
        assert (found - memory[kept]).abs().max() <= 1e-9, kept
    assert float(ours.t) == pytest.approx(float(memory["t"]), rel=1e-9)
    assert float(ours.H_diag) == pytest.approx(float(memory["H_diag"]), rel=1e-9)
    assert float(ours.prev_loss) == pytest.approx(memory["prev_loss"], rel=1e-12)


@pytest.mark.parametrize("name", OPTION_SETS)
def test_equals_torch_optim_in_float32(name: str) -> None:
    """On a well-conditioned problem float32 follows torch, too."""
    for state, theirs, _ in run(quadratic, torch.ones(4), in_dtype(OPTION_SETS[name], torch.float32), 5):
        assert state.params.dtype == torch.float32
        assert relative_difference(state.params, theirs) <= 2e-6


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_complex_and_mixed_leaves_equal_torch_optim(line_search: Any) -> None:
    """A complex number is two real ones, leaves of several dtypes are one vector, and containers play no part."""
    target = torch.complex(normal(0, (3,)), normal(1, (3,)))

    def loss(params: Any) -> Tensor:
        apart = (params["z"] - target).abs().square() * torch.tensor([1.0, 3.0, 9.0])
        return (
            apart.sum() + (params["layer"][0].double() - 2).square().sum() + (params["z"].real * params["x"]).sum() ** 2
        )

    start = {"z": torch.zeros(3, dtype=torch.complex128), "layer": [torch.ones(2, 2)], "x": normal(2, (3,))}
    for state, theirs, _ in run(loss, start, {"line_search_fn": line_search, "lr": 0.5}, 4):
        # The leaf of float32 rounds where it lies.
        assert_close(state.params, theirs, 1e-6)
    double = {**start, "layer": [torch.ones(2, 2, dtype=torch.float64)]}
    for state, theirs, _ in run(loss, double, {"line_search_fn": line_search, "lr": 0.5}, 4):
        assert_close(state.params, theirs, 1e-12)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_reaches_scipys_minimum(problem: str) -> None:
    """SciPy's L-BFGS-B ends where the line search leads."""
    loss, start = PROBLEMS[problem]

    def value_and_slope(x: Any) -> Any:
        slope, value = ft.grad_and_value(loss)(torch.as_tensor(x))
        return value.item(), slope.numpy()

    found = minimize(value_and_slope, start.numpy(), jac=True, method="L-BFGS-B", options={"ftol": 0.0, "gtol": 1e-10})
    optimizer = ft.lbfgs(line_search_fn="strong_wolfe", max_iter=100, tolerance_change=1e-14, tolerance_grad=1e-11)
    step = ft.make_step(ft.grad_and_value(lambda params, batch: loss(params)), optimizer)
    state, _ = step(ft.init_state(start, optimizer), None)
    assert_close(state.params, torch.as_tensor(found.x), 1e-7)


@pytest.mark.parametrize("name", [name for name, options in OPTION_SETS.items() if "line_search_fn" not in options])
def test_mapped_and_differentiated_updates_are_the_plain_ones(name: str) -> None:
    """All iterations with those after the end chosen away give what an early end gives, counts included."""
    options = in_dtype(OPTION_SETS[name], torch.float64)
    optimizer = ft.lbfgs(**options)
    grad_fn = ft.grad_and_value(lambda params: logistic(params["x"]) + quadratic(params["x"]) * 0.1)
    update_fn = ft.make_update(optimizer)

    def train(params: Any) -> Any:
        state = optimizer.init(params)
        for _ in range(3):
            grads, value = grad_fn(params)
            params, state = update_fn(grads, state, params, value=value, grad_and_value_fn=grad_fn)
        return params, state

    # The first begins at the minimum, so that members end at different iterations.
    minimum = ft.tree.get(train({"x": torch.zeros(4, dtype=torch.float64)})[0], "x")
    starts = torch.stack([minimum, torch.ones(4, dtype=torch.float64), normal(5, (4,))])
    alone = [train({"x": start}) for start in starts]
    mapped = torch.func.vmap(train)({"x": starts})
    for index, (params, state) in enumerate(alone):
        one_params, one_state = ft.tree.map(lambda leaf, index=index: leaf[index], mapped)
        assert_close(one_params, params, 1e-10)
        assert (one_state.n_iter, one_state.func_evals) == (state.n_iter, state.func_evals)
        assert_close(one_state.old_stps, state.old_stps, 1e-6)
    watched = starts[1].clone().requires_grad_()
    reached = train({"x": watched})[0]["x"]
    assert_close(reached.detach(), alone[1][0]["x"], 1e-10)
    assert torch.autograd.grad(reached.sum(), watched)[0].isfinite().all()


@given(seeds())
@settings(max_examples=examples(10))
def test_a_leaf_without_gradients_rests(seed: int) -> None:
    """Its bits stay, and the others move as if it were not there."""
    both = {"a": normal(seed, (3,)), "b": normal(seed + 1, (2,))}

    def loss(a: Tensor) -> Tensor:
        return (a - 1).square().sum() + (a**4).sum() / 10

    def train(params: Any, grad_and_value_fn: Any) -> Any:
        optimizer = ft.lbfgs(0.5, max_iter=5)
        state = optimizer.init(params)
        for _ in range(3):
            grads, value = grad_and_value_fn(params)
            params, state = ft.make_update(optimizer)(
                grads, state, params, value=value, grad_and_value_fn=grad_and_value_fn
            )
        return params

    def of_both(params: Any) -> Any:
        grads, value = ft.grad_and_value(loss)(params["a"])
        return {"a": grads, "b": None}, value

    reached = train(both, of_both)
    assert_bitwise(reached["b"], both["b"])
    assert_close(reached["a"], train(both["a"], ft.grad_and_value(loss)), 1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_near_as_torchs(dtype: torch.dtype) -> None:
    """Sixteen-bit parameters keep their dtype and come no farther from the minimum than torch's."""
    *_, (state, theirs, _) = run(quadratic, torch.ones(4, dtype=dtype), {"lr": 0.3}, 3)
    exact = torch.linalg.solve(HESSIAN.to(dtype).double(), torch.ones(4, dtype=torch.float64))
    assert state.params.dtype == dtype
    torchs = (theirs.double() - exact).norm().nan_to_num(torch.inf)  # squares in float16 overflow
    assert (state.params.double() - exact).norm() <= torchs


OF_PLAIN_UPDATES = {"vmap_equals_loop", "is_differentiable", "traces_as_one_graph"}


@pytest.mark.parametrize(
    "law", [law for law in LAWS["optimizer"] if law.__name__ not in OF_PLAIN_UPDATES], ids=lambda law: law.__name__
)
def test_laws_hold_for_the_line_search(law: Any) -> None:
    """All laws but those of updates that no host can follow, which are refused."""
    # Without a tolerance, at which it would rest a little above the minimum.
    optimizer = lbfgs_on_quadratic(line_search_fn="strong_wolfe", tolerance_grad=0.0)
    check_law(law, optimizer, testing.params_and_grads())


@given(seeds())
@settings(max_examples=examples(50))
def test_the_line_search_meets_the_wolfe_conditions(seed: int) -> None:
    """What the search returns is lower by slope, and flatter, as long as it may look."""
    a, b, c, first = (float(number) for number in normal(seed, (4,)).exp())

    def at(t: float) -> Point:
        return Point(t, a * t**4 + b * t**2 - c * t, torch.zeros(()), 4 * a * t**3 + 2 * b * t - c)

    point, looks = strong_wolfe(at, at(0.0), first, 1.0, 1e-12, 25)
    assert point.loss <= -1e-4 * point.t * c
    assert abs(point.slope) <= 0.9 * c
    assert 1 <= looks <= 26


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"lr": -1.0}, r"lr must be .* >= 0, got -1\.0\. 1\.0 is usual"),
    ({"max_iter": 0}, "max_iter must be an int >= 1, got 0. 20 is usual"),
    ({"max_iter": 2.5}, r"max_iter must be an int >= 1, got 2\.5"),
    ({"max_eval": 0}, "max_eval must be an int >= 1, got 0. None is usual"),
    ({"history_size": 0}, "history_size must be an int >= 1, got 0. 100 is usual"),
    ({"tolerance_grad": -1.0}, r"tolerance_grad must be .*, got -1\.0\. 1e-7 is usual"),
    ({"tolerance_change": -1.0}, r"tolerance_change must be .*, got -1\.0\. 1e-9 is usual"),
    ({"line_search_fn": "armijo"}, "line_search_fn must be None or 'strong_wolfe', got 'armijo'"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ft.HyperparameterError, match=message):
        ft.lbfgs(**options)


def test_what_torch_refuses_is_refused() -> None:
    with seeded():
        errors = INFO.optim_error_inputs_func("cpu", torch.float32)
    for one in errors:
        options = one.optimizer_error_input.kwargs
        if options:
            with pytest.raises(ft.HyperparameterError):
                ft.lbfgs(**options)


def test_what_an_update_needs_is_asked_for() -> None:
    """A loss that cannot be looked at again, and a line search where values are not known, are explained."""
    leaf = torch.ones(2)
    grad_and_value_fn = ft.grad_and_value(lambda params: params.square().sum())
    grads, value = grad_and_value_fn(leaf)
    told = {"value": value, "grad_and_value_fn": grad_and_value_fn}
    optimizer, searching = ft.lbfgs(), ft.lbfgs(line_search_fn="strong_wolfe")
    for missing in ({}, {"value": value}, {"grad_and_value_fn": grad_and_value_fn}):
        with pytest.raises(
            ft.StructureError, match=r"pass params, value= .* and grad_and_value_fn= .* as make_step does"
        ):
            ft.make_update(optimizer)(grads, optimizer.init(leaf), leaf, **missing)
    with pytest.raises(ft.StructureError, match="pass params"):
        optimizer.update(grads, optimizer.init(leaf), None, **told)
    with pytest.raises(ft.HyperparameterError, match=r"not known while an update is traced.*line_search_fn=None"):
        torch.func.vmap(lambda one: searching.update(one, searching.init(leaf), leaf, **told)[0])(grads[None])
    update_fn = ft.make_update(ft.lbfgs(torch.ones((), requires_grad=True), line_search_fn="strong_wolfe"))
    with pytest.raises(ft.HyperparameterError, match="mapped over or differentiated"):
        update_fn(grads, searching.init(leaf), leaf, **told)
