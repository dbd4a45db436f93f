"""SAM and ASAM: gradient functions around gradient functions."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import functional_train as ft
from tests.global_rng import seeded
from tests.oracles import load, problem
from tests.profiles import examples
from tests.trees import Witness, assert_bitwise, assert_close, like, nestings, normal, seeds, tensors

ORACLES = {
    "sam": lambda grad_fn: ft.sam(grad_fn, 0.1),
    "sam_options": lambda grad_fn: ft.sam(grad_fn, 0.5, eps=1e-3),
    # The library has no eta beside |p|.
    "asam": lambda grad_fn: ft.asam(grad_fn, 0.5, eta=0.0),
}
BOTH = {"sam": ft.sam, "asam": ft.asam}


@pytest.mark.parametrize("name", ORACLES)
def test_figures_of_pytorch_optimizer(name: str) -> None:
    """50 steps around SGD on a quadratic, in float64."""
    case = load.case("pytorch_optimizer", name)

    def grad_fn(params: Any, batch: Any) -> Any:
        return problem.quadratic(0, params), torch.tensor(0.0)

    optimizer = ft.sgd(case.kwargs["lr"], case.kwargs.get("momentum", 0.0))
    step = ft.make_step(ORACLES[name](grad_fn), optimizer)
    expected = load.figures("pytorch_optimizer", name, "quadratic")
    state = ft.init_state(problem.start(case.leaves), optimizer)
    for count in range(1, problem.NUM_STEPS + 1):
        state, _ = step(state, None)
        if count in problem.STEPS:
            assert_close(state.params, expected[count], 1e-10)


def bowl(params: Any, batch: Any) -> Tensor:
    """A quartic of the distance to the batch, whose gradient differs from place to place."""
    apart = ft.tree.sub(params, batch)
    square = ft.tree.vdot(apart, apart)
    return square + square**2


@settings(max_examples=examples(30))
@given(nestings(tensors()), seeds(), st.floats(0.01, 2.0))
def test_the_gradient_is_that_of_the_perturbed_point(params: Any, seed: int, rho: float) -> None:
    """Equation 2 of either paper, written over one vector; loss and arguments are those of the first call."""
    batch = like(seed, params)
    witness = Witness(params, batch)
    p, unravel = ft.tree.ravel(params)
    grads, loss = ft.grad_and_value(bowl)(params, batch)
    g = ft.tree.ravel(grads)[0]
    size = p.abs() + 0.01
    points = {
        "sam": p + rho * g / (torch.linalg.vector_norm(g) + 1e-12),
        "asam": p + rho * size**2 * g / (torch.linalg.vector_norm(size * g) + 1e-12),
    }
    for name, make in BOTH.items():
        sharp, value = make(ft.grad_and_value(bowl), rho)(params, batch)
        assert_bitwise(value, loss)
        assert_close(sharp, ft.grad(bowl)(unravel(points[name]), batch), 1e-10)
    witness.check()


@pytest.mark.parametrize("make", BOTH.values())
def test_a_radius_of_zero_changes_nothing(make: Any) -> None:
    """The gradient is then the plain one to the bit, as it is where the gradient vanishes."""
    params, batch = {"w": normal(0, (3, 2))}, {"w": normal(1, (3, 2))}
    assert_bitwise(make(ft.grad_and_value(bowl), 0.0)(params, batch), ft.grad_and_value(bowl)(params, batch))
    assert_bitwise(make(ft.grad_and_value(bowl))(params, params), ft.grad_and_value(bowl)(params, params))


@pytest.mark.parametrize("make", BOTH.values())
def test_none_integers_and_aux(make: Any) -> None:
    """Leaves without a gradient stay where they are, and aux is that of the first call."""
    params = {"w": normal(0, (3,)), "n": torch.tensor(2), "gone": None}
    seen: list[Tensor] = []

    def loss_fn(params: Any, batch: Any) -> Any:
        assert params["n"] == 2
        seen.append(params["w"].detach())
        return (params["w"] ** 4).sum() * params["n"], {"first": params["w"].sum()}

    grads, (loss, aux) = make(ft.grad_and_value(loss_fn, has_aux=True))(params, None)
    assert grads["n"] is None
    assert grads["gone"] is None
    assert_bitwise(seen[0], params["w"])
    assert not torch.equal(seen[1], seen[0])
    assert_bitwise((loss, aux), ((params["w"] ** 4).sum() * 2, {"first": params["w"].sum()}))


@pytest.mark.parametrize("make", BOTH.values())
def test_both_calls_see_one_key_and_one_set_of_buffers(make: Any) -> None:
    """Randomness is that of one loss, and BatchNorm's statistics move once, from the parameters themselves."""
    with seeded():
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    apply, params, buffers = ft.functionalize(module)
    passed: list[tuple[Tensor, Any]] = []

    def loss_fn(params: Any, batch: Tensor, *, key: Tensor, buffers: Any) -> Any:
        passed.append((key, buffers))
        noisy = batch + ft.random.normal(key, batch.shape, dtype=torch.float64)
        out, new_buffers = apply(params, noisy, buffers=buffers)
        return F.mse_loss(out, torch.ones_like(out)), ft.Aux(buffers=new_buffers)

    optimizer = ft.sgd(0.1)
    grad_fn = ft.grad_and_value(loss_fn, has_aux=True)
    state = ft.init_state(params, optimizer, buffers=buffers, key=ft.random.key(0))
    after, metrics = ft.make_step(make(grad_fn), optimizer)(state, normal(3, (8, 3)))
    plain, expected = ft.make_step(grad_fn, optimizer)(state, normal(3, (8, 3)))
    assert len(passed) == 3
    assert all(torch.equal(key, passed[0][0]) and given is buffers for key, given in passed)
    assert_bitwise((after.buffers, metrics, after.key), (plain.buffers, expected, plain.key))
    assert not torch.equal(after.params["0.weight"], plain.params["0.weight"])


@pytest.mark.parametrize("make", BOTH.values())
def test_a_minimum_is_reached_up_to_the_radius(make: Any) -> None:
    """Descent ends within the ball around the minimum, in which no point is worse than another."""
    target = {"w": normal(1, (3, 2)), "b": normal(2, ())}
    step = ft.make_step(make(ft.grad_and_value(bowl), 0.05), optimizer := ft.adam(0.01))
    state = ft.fold(step, ft.init_state(ft.tree.zeros_like(target), optimizer), [target] * 400)
    assert ft.tree.global_norm(ft.tree.sub(state.params, target)) < 0.05 * ft.tree.global_norm(target)


@pytest.mark.parametrize("make", BOTH.values())
def test_a_radius_may_be_a_tensor(make: Any) -> None:
    """A 0-d tensor can be mapped over; 16-bit parameters stay 16 bits wide; the map is traced as one graph."""
    params, batch = {"w": normal(0, (3, 2))}, {"w": normal(1, (3, 2))}
    radii = torch.tensor([0.1, 0.4], dtype=torch.float64)
    together, _ = torch.func.vmap(lambda rho: make(ft.grad_and_value(bowl), rho)(params, batch))(radii)
    for place, rho in enumerate((0.1, 0.4)):
        alone, _ = make(ft.grad_and_value(bowl), rho)(params, batch)
        assert_close(together["w"][place], alone["w"], 1e-13)
    low = ft.tree.to((params, batch), torch.bfloat16)
    assert make(ft.grad_and_value(bowl), radii[0])(*low)[0]["w"].dtype == torch.bfloat16


MISTAKES = [
    (lambda: ft.sam(3), r"sam takes a gradient function, got a int\. Write ft\.sam\(ft\.grad_and_value\(loss_fn\)\)"),
    (lambda: ft.sam(bowl, -0.1), r"rho must be a finite number >= 0 or a 0-d tensor, got -0\.1"),
    (lambda: ft.asam(bowl, lambda step: 0.1), r"rho must be .*A gradient function counts no steps"),
    (lambda: ft.asam(bowl, eta=-1.0), r"eta must be a finite number >= 0"),
    (lambda: ft.sam(bowl, eps=float("nan")), r"eps must be a finite number >= 0 or a 0-d tensor, got nan"),
    (lambda: ft.sam(bowl, torch.ones(2)), r"rho has shape \(2,\); a tensor hyperparameter is 0-d"),
    (
        lambda: ft.asam(bowl)(torch.ones(1), torch.ones(1)),
        r"asam needs a grad_fn that returns \(grads, loss\), this one returned a Tensor\. Pass ft\.grad_and_value",
    ),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_mistakes_are_explained(make: Any, message: str) -> None:
    with pytest.raises((ft.HyperparameterError, ft.StructureError), match=message):
        make()
