"""adafactor is torch.optim.Adafactor, and Optax's where that has more."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing._internal.common_optimizers import optim_db

import functional_train as ft
from tests.global_rng import seeded
from tests.oracles import load, problem
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, normal, relative_difference, seeds, tensors

(INFO,) = [info for info in optim_db if info.optim_cls is torch.optim.Adafactor]
OPTION_SETS: dict[str, dict[str, Any]] = {one.desc: one.kwargs for one in INFO.optim_inputs_func("cpu")}
OPTION_SETS["everything"] = {
    "lr": 0.3,
    "beta2_decay": -0.5,
    "eps": (1e-5, 0.1),
    "d": 1.2,
    "weight_decay": 0.2,
    "maximize": True,
}
SHAPES = ((), (1,), (7,), (4, 5), (1, 6), (1, 2, 1, 3, 2))


def gradient(seed: int, place: int, step: int, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """None, zeros, huge, tiny or ordinary, by the bits of a seed."""
    mixed = (seed * 7919 + place * 104729 + step * 1299709) % 2**31
    if mixed % 8 == 0:
        return None
    return {1: 0.0, 2: 1e6, 3: 1e-10}.get(mixed % 8, 1.0) * normal(mixed, shape, dtype)


def trajectories(options: dict[str, Any], seed: int, dtype: torch.dtype) -> Any:
    """Parameters after every step, ours and those of torch's for-loop."""
    params: Any = {f"w{place}": normal(seed + place, shape, dtype) for place, shape in enumerate(SHAPES)}
    theirs = {path: torch.nn.Parameter(leaf.clone()) for path, leaf in params.items()}
    reference, optimizer = torch.optim.Adafactor(list(theirs.values()), **options), ft.adafactor(**options)
    update_fn, state = ft.make_update(optimizer), optimizer.init(params)
    for step in range(30):
        rows = enumerate(params.items())
        grads = {path: gradient(seed, place, step, tuple(leaf.shape), dtype) for place, (path, leaf) in rows}
        for path, parameter in theirs.items():
            parameter.grad = None if grads[path] is None else grads[path].clone()
        reference.step()
        params, state = update_fn(grads, state, params)
        yield params, state, theirs, reference


@pytest.mark.parametrize("name", OPTION_SETS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Each of the 30 steps rounds a handful of times, relative to the largest value that a leaf has had.
    [(torch.float64, 1e-12), (torch.float32, 2e-6)],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_torch_optim(name: str, dtype: torch.dtype, tolerance: float, seed: int) -> None:
    """Scalars, vectors, matrices and stacks of them follow torch, through zero, huge, tiny and absent gradients."""
    scale = dict.fromkeys((f"w{place}" for place in range(len(SHAPES))), 0.0)
    for params, _, theirs, _ in trajectories(OPTION_SETS[name], seed, dtype):
        for path, expected in theirs.items():
            scale[path] = max(scale[path], expected.detach().abs().max().item())
            assert params[path].dtype == dtype
            assert relative_difference(params[path], expected.detach(), scale[path]) <= tolerance, path


def test_state_equals_torch_optims() -> None:
    """Rows, columns and variances are torch's, shapes and all, and a leaf counts its own steps."""
    *_, (_, state, theirs, reference) = trajectories(OPTION_SETS["everything"], 2, torch.float64)
    expected = [reference.state[parameter] for parameter in theirs.values()]
    for found, torchs in zip(state.variance.values(), expected, strict=True):
        if isinstance(found, tuple):
            assert_close(found, (torchs["row_var"], torchs["col_var"]), 1e-12)
        else:
            assert_close(found, torchs["variance"], 1e-12)
    assert state.step.tolist() == [int(torchs["step"]) for torchs in expected]


@settings(max_examples=examples(20))
@given(nestings(tensors(shapes=SHAPES)), seeds(), st.sampled_from(sorted(OPTION_SETS)), st.data())
def test_equals_torch_optim_on_any_tree(params: Any, seed: int, name: str, data: st.DataObject) -> None:
    """Containers play no part: random trees follow torch.optim too."""
    leaves, structure = ft.tree.flatten(params)
    theirs = [torch.nn.Parameter(leaf.clone()) for leaf in leaves]
    reference, optimizer = torch.optim.Adafactor(theirs, **OPTION_SETS[name]), ft.adafactor(**OPTION_SETS[name])
    state = optimizer.init(params)
    for step in range(4):
        absent = data.draw(st.sets(st.integers(0, len(leaves) - 1)))
        grads = [None if place in absent else like(seed + step, leaf) for place, leaf in enumerate(leaves)]
        for parameter, grad in zip(theirs, grads, strict=True):
            parameter.grad = None if grad is None else grad.clone()
        reference.step()
        params, state = ft.make_update(optimizer)(ft.tree.unflatten(structure, grads), state, params)
    assert_close(params, ft.tree.unflatten(structure, [parameter.detach() for parameter in theirs]), 1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2**15,), (128, 256)])
def test_low_precision_is_as_near_as_torchs(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Sixteen-bit parameters and variances keep their dtype and stay no farther from float64 than torch's."""
    params = normal(0, shape).to(dtype)
    exact, parameter = params.double(), torch.nn.Parameter(params.clone())
    # The epsilon of float64 would make another method of it.
    options: Any = {"eps": (torch.finfo(dtype).eps, 1e-3)}
    reference, optimizer = torch.optim.Adafactor([parameter], **options), ft.adafactor(**options)
    update_fn, state, exact_state = ft.make_update(optimizer), optimizer.init(params), optimizer.init(exact)
    for step in range(30):
        grad = normal(step, shape).to(dtype)
        parameter.grad = grad.clone()
        reference.step()
        params, state = update_fn(grad, state, params)
        exact, exact_state = update_fn(grad.double(), exact_state, exact)
    assert {leaf.dtype for leaf in ft.tree.leaves((params, state)) if leaf.is_floating_point()} == {dtype}
    # Both walk at random on the grid of the dtype: over so many numbers the ratio is known to a percent.
    assert (params.double() - exact).norm() <= 1.01 * (parameter.detach().double() - exact).norm()


ABSOLUTE = {"lr": 0.05, "relative_step": False}
OPTAX: dict[str, dict[str, Any]] = {
    "adafactor": {**ABSOLUTE, "min_dim_size_to_factor": 128},
    "adafactor_factored": {**ABSOLUTE, "min_dim_size_to_factor": 2},
    "adafactor_momentum": {**ABSOLUTE, "min_dim_size_to_factor": 2, "beta1": 0.9},
    # Optax does not scale the decay by the learning rate.
    "adafactor_weight_decay": {**ABSOLUTE, "min_dim_size_to_factor": 2, "weight_decay": 0.01 / 0.05},
    "adafactor_unclipped": {**ABSOLUTE, "min_dim_size_to_factor": 2, "d": None, "scale_parameter": False},
}


@pytest.mark.parametrize("name", OPTAX)
@pytest.mark.parametrize("which", ["given", "quadratic"])
def test_equals_optax(name: str, which: Any) -> None:
    """What torch lacks is Optax's: momentum, absolute steps, small matrices kept whole, no limit.

    Its case `adafactor_unscaled` has no row: it adds an eps of 1e-8 to g², which torch takes for a lower bound of
    V, and limits the mean square to less than 1, which torch refuses.
    """
    expected = load.figures("optax", name, which)
    leaves = load.case("optax", name).leaves
    optimizer = ft.adafactor(eps=(1e-30, 1e-3), **OPTAX[name])
    params = problem.start(leaves)
    state, gradients = optimizer.init(params), getattr(problem, which)
    for step in range(1, 51):
        params, state = ft.make_update(optimizer)(gradients(step, params), state, params)
        if step in expected:
            assert_close(params, expected[step], 1e-10)


def test_warm_up_of_other_libraries_is_a_schedule() -> None:
    """With lr 1e-6 t the relative step is min(1e-6 t, 1 / sqrt(t))."""
    params = normal(0, (3, 2))
    warm, plain = ft.adafactor(lambda step: 1e-6 * (step.double() + 1)), ft.adafactor(2e-6)
    _, state = warm.update(params, warm.init(params), params)
    second, _ = warm.update(params, state, params)
    expected, _ = plain.update(params, state.inner, params)
    assert_close(second, expected, 1e-13)


def test_memory_is_that_of_rows_and_columns() -> None:
    """A matrix of m by n keeps m + n numbers, a smaller one than asked for keeps all."""
    params = {"large": torch.zeros(3, 6, 5), "small": torch.zeros(3, 6, 4), "vector": torch.zeros(9)}
    state = ft.adafactor(min_dim_size_to_factor=5).init(params)
    sizes = {path: ft.tree.num_elements(part) for path, part in state.variance.items()}
    assert sizes == {"large": 3 * (6 + 5), "small": 3 * 6 * 4, "vector": 9}
    assert state.exp_avg == ()


def test_reaches_a_minimum() -> None:
    """A least-squares problem with a known solution is solved."""
    x, solution = normal(0, (40, 3)), normal(1, (3, 2))
    y = x @ solution
    loss_fn = lambda params, batch: (x @ params - y).square().mean()  # noqa: E731
    optimizer = ft.adafactor(ft.schedules.linear(0.1, 0.0, 400))
    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
    reached = ft.fold(step, ft.init_state(torch.zeros(3, 2, dtype=torch.float64), optimizer), [None] * 400).params
    torch.testing.assert_close(reached, solution, atol=1e-3, rtol=0)


def test_every_leaf_has_its_own_epsilon() -> None:
    """Leaves of other dtypes do not change what a leaf is divided by; in torch the first leaf's epsilon is all's."""
    tiny = {"a": torch.full((2,), 1e-3, dtype=torch.bfloat16), "b": torch.full((2,), 1e-9, dtype=torch.float64)}
    together, _ = ft.scale_by_factored_rms(d=None).update(tiny, ft.scale_by_factored_rms().init(tiny), None)
    alone, _ = ft.scale_by_factored_rms(d=None).update(tiny["b"], ft.scale_by_factored_rms().init(tiny["b"]), None)
    assert_bitwise(together["b"], alone)
    assert_close(alone, torch.ones(2, dtype=torch.float64), 1e-14)


def test_numbers_can_be_differentiated() -> None:
    """Derivatives in every number are those of finite differences."""
    params = {"w": normal(0, (3, 2)), "b": normal(1, (2,))}

    def updates_of(lr: Tensor, beta2_decay: Tensor, eps: Tensor, size: Tensor, d: Tensor, decay: Tensor) -> Any:
        optimizer = ft.adafactor(lr, beta2_decay, (eps, size), d, decay, beta1=decay)
        current, state = params, optimizer.init(params)
        for step in range(2):
            current, state = ft.make_update(optimizer)(like(5 + step, params), state, current)
        return tuple(current.values())

    numbers = [torch.tensor(one, dtype=torch.float64, requires_grad=True) for one in (0.3, -0.5, 0.8, 2.0, 1.0, 0.2)]
    assert torch.autograd.gradcheck(updates_of, numbers)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"lr": -1.0}, r"lr must be .* >= 0, got -1\.0.*maximize=True"),
    ({"eps": 1e-3}, "eps must be a pair, got 0.001"),
    ({"eps": (-1e-30, 1e-3)}, r"eps\[0\] must be .* >= 0, got -1e-30"),
    ({"eps": (None, -1.0)}, r"eps\[1\] must be .* >= 0, got -1\.0"),
    ({"beta2_decay": 0.8}, r"beta2_decay must be a finite number <= 0, got 0\.8\. -0\.8 is usual"),
    ({"d": 0.5}, r"d must be a finite number >= 1, got 0\.5\. 1\.0 is usual"),
    ({"weight_decay": -0.1}, "weight_decay must be"),
    ({"beta1": 1.0}, r"beta1 must be in \[0, 1\), got 1\.0"),
    ({"min_dim_size_to_factor": -1}, "min_dim_size_to_factor must be an int >= 0, got -1. 128 is usual"),
    ({"min_dim_size_to_factor": 2.0}, r"min_dim_size_to_factor must be an int >= 0, got 2\.0"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ft.HyperparameterError, match=message):
        ft.adafactor(**options)


def test_what_torch_refuses_is_refused() -> None:
    """Error inputs of torch's own tests, complex parameters, and an update that is given no parameters."""
    with seeded():
        errors = INFO.optim_error_inputs_func("cpu", torch.float32)
    for one in errors:
        options = one.optimizer_error_input.kwargs
        if options:
            with pytest.raises(ft.HyperparameterError):
                ft.adafactor(**options)
    with pytest.raises(ft.StructureError, match=r"no rule for complex parameters, but 'z' is torch\.complex64"):
        ft.adafactor().init({"z": torch.zeros(2, dtype=torch.complex64)})
    leaf: Tensor = torch.ones(2)
    with pytest.raises(ft.StructureError, match="relative to the parameters: pass params"):
        ft.adafactor().update(leaf, ft.adafactor().init(leaf), None)
