"""muon is torch.optim.Muon for matrices and AdamW for the rest."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing._internal.common_optimizers import optim_db

import functional_train as ft
from functional_train import testing
from functional_train.testing.laws import LAWS, check_law
from functional_train.updates.optimizers._newton_schulz import NewtonSchulz, orthogonalized
from tests.global_rng import seeded
from tests.oracles import load, problem
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, nestings, normal, relative_difference, seeds, tensors

(INFO,) = [info for info in optim_db if info.optim_cls is torch.optim.Muon]
OPTION_SETS: dict[str, dict[str, Any]] = {one.desc: one.kwargs for one in INFO.optim_inputs_func("cpu")}
OPTION_SETS |= {
    "everything": {"lr": 0.05, "weight_decay": 0.3, "momentum": 0.5, "nesterov": False, "eps": 1e-3, "ns_steps": 2},
    "original": {"lr": 0.05, "adjust_lr_fn": "original"},
    "match_rms_adamw": {"lr": 0.05, "adjust_lr_fn": "match_rms_adamw"},
    "no decay": {"lr": 0.05, "weight_decay": 0.0, "momentum": 0.0},
}
# Two of one shape, and one that is its transpose.
SHAPES = {
    "tall": (6, 3),
    "wide": (3, 6),
    "tall too": (6, 3),
    "row": (1, 5),
    "column": (5, 1),
    "vector": (7,),
    "one": (),
}
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def gradient(seed: int, place: int, step: int, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """None, zeros, huge, tiny or ordinary, by the bits of a seed."""
    mixed = (seed * 7919 + place * 104729 + step * 1299709) % 2**31
    if mixed % 8 == 0:
        return None
    return {1: 0.0, 2: 1e6, 3: 1e-10}.get(mixed % 8, 1.0) * normal(mixed, shape, dtype)


def torchs(params: dict[str, Tensor], options: dict[str, Any]) -> tuple[dict[str, Any], list[torch.optim.Optimizer]]:
    """Parameters of torch, its Muon for the matrices and its AdamW for the rest."""
    own = {path: torch.nn.Parameter(leaf.clone()) for path, leaf in params.items()}
    matrices, others = ([leaf for leaf in own.values() if (leaf.ndim == 2) == is_matrix] for is_matrix in (True, False))
    adam = torch.optim.AdamW(others, lr=options.get("lr", 1e-3), foreach=False)
    return own, [torch.optim.Muon(matrices, **options), adam]


def trajectories(name: str, seed: int, dtype: torch.dtype) -> Any:
    # torch computes with a tensor lr in its dtype; in that of the leaves it is as exact as a number's.
    options = {key: one.to(dtype) if isinstance(one, Tensor) else one for key, one in OPTION_SETS[name].items()}
    params = {path: normal(seed + place, shape, dtype) for place, (path, shape) in enumerate(SHAPES.items())}
    theirs, references = torchs(params, options)
    optimizer = ft.muon(**options)
    state = optimizer.init(params)
    for step in range(30):
        rows = enumerate(params.items())
        grads = {path: gradient(seed, place, step, tuple(leaf.shape), dtype) for place, (path, leaf) in rows}
        for path, parameter in theirs.items():
            parameter.grad = None if grads[path] is None else grads[path].clone()
        for reference in references:
            reference.step()
        params, state = ft.make_update(optimizer)(grads, state, params)
        yield params, state, theirs, references[0]


@pytest.mark.parametrize("name", OPTION_SETS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Each of the 30 steps rounds a handful of times, relative to the largest value that a leaf has had. The iteration
    # itself is in bfloat16, whose products are torch's to the bit.
    [(torch.float64, 1e-12), (torch.float32, 2e-6)],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_torch_optim(name: str, dtype: torch.dtype, tolerance: float, seed: int) -> None:
    """Matrices follow Muon and all others AdamW, through zero, huge, tiny and absent gradients."""
    scale = dict.fromkeys(SHAPES, 0.0)
    for params, _, theirs, _ in trajectories(name, seed, dtype):
        for path, expected in theirs.items():
            scale[path] = max(scale[path], expected.detach().abs().max().item())
            assert params[path].dtype == dtype
            assert relative_difference(params[path], expected.detach(), scale[path]) <= tolerance, path


def test_state_equals_torch_optims() -> None:
    """The mean of the gradients is torch's, and kept for matrices only."""
    *_, (_, state, theirs, reference) = trajectories("everything", 2, torch.float64)
    buffers = ft.tree.get(state, "momentum_buffer")
    for path, parameter in theirs.items():
        if parameter.ndim == 2:
            assert_close(buffers[path], reference.state[parameter]["momentum_buffer"], 1e-12)
        else:
            assert buffers[path] == ()
    assert ft.tree.paths(state.others) == [
        "0/step",
        *(f"0/{m}/{p}" for m in ("exp_avg", "exp_avg_sq") for p in ("one", "vector")),
    ]


@settings(max_examples=examples(20))
@given(nestings(tensors(shapes=((2, 3), (3, 2), (4, 4), (3,)))), seeds(), st.sampled_from(sorted(OPTION_SETS)))
def test_equals_torch_optim_on_any_tree(params: Any, seed: int, name: str) -> None:
    """Containers play no part: random trees follow torch.optim too."""
    options = {key: one.double() if isinstance(one, Tensor) else one for key, one in OPTION_SETS[name].items()}
    leaves, structure = ft.tree.flatten(params)
    more = [normal(0, (2, 2)), normal(1, (2,))]  # torch takes no empty lists
    theirs, references = torchs({str(place): leaf for place, leaf in enumerate([*leaves, *more])}, options)
    optimizer = ft.muon(**options)
    state = optimizer.init(params)
    for step in range(3):
        grads = [normal(seed + step + place, tuple(leaf.shape)) for place, leaf in enumerate(leaves)]
        for parameter, grad in zip(theirs.values(), grads, strict=False):
            parameter.grad = grad.clone()
        for reference in references:
            reference.step()
        params, state = ft.make_update(optimizer)(ft.tree.unflatten(structure, grads), state, params)
    expected = [parameter.detach() for parameter in theirs.values()][: len(leaves)]
    assert_close(params, ft.tree.unflatten(structure, expected), 1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (16, 5), (17, 17), (33, 65), (64, 64), (190, 180)])
def test_stacked_matrices_are_torchs_to_the_bit(shape: tuple[int, int]) -> None:
    """Several matrices of one shape in one product give what each gives alone, and what torch's function gives."""
    from torch.optim._muon import _zeropower_via_newtonschulz

    leaves = [normal(seed, shape) for seed in range(5)]
    (column,) = ft.tree.flat(leaves)
    made = orthogonalized(column, NewtonSchulz(COEFFICIENTS, 1e-7, 5, torch.bfloat16)).leaves
    for leaf, one in zip(leaves, made, strict=True):
        assert_bitwise(one, _zeropower_via_newtonschulz(leaf.clone(), COEFFICIENTS, 5, 1e-7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_near_as_torchs(dtype: torch.dtype) -> None:
    """Sixteen-bit matrices keep their dtype and stay no farther from float64 than torch's."""
    params = normal(0, (128, 256)).to(dtype)
    exact, parameter = params.double(), torch.nn.Parameter(params.clone())
    reference, optimizer = torch.optim.Muon([parameter]), ft.muon()
    update_fn, state, exact_state = ft.make_update(optimizer), optimizer.init(params), optimizer.init(exact)
    for step in range(30):
        grad = normal(step, (128, 256)).to(dtype)
        parameter.grad = grad.clone()
        reference.step()
        params, state = update_fn(grad, state, params)
        exact, exact_state = update_fn(grad.double(), exact_state, exact)
    assert {leaf.dtype for leaf in ft.tree.leaves((params, state)) if leaf.is_floating_point()} == {dtype}
    # Both walk at random on the grid of the dtype: over so many numbers the ratio is known to a percent.
    assert (params.double() - exact).norm() <= 1.01 * (parameter.detach().double() - exact).norm()


IN_FLOAT64_ONLY = {"is_differentiable", "vmap_equals_loop"}


@pytest.mark.parametrize("make", [ft.muon, ft.scale_by_muon])
@pytest.mark.parametrize(
    "law",
    [
        pytest.param(law, marks=[pytest.mark.slow] if law is testing.traces_as_one_graph else [])
        for law in LAWS["optimizer"]
        if law.__name__ not in IN_FLOAT64_ONLY
    ],
    ids=lambda law: law.__name__,
)
def test_laws_hold_in_bfloat16(make: Any, law: Any) -> None:
    """As it is by default, too, Muon keeps every law but the two that tests/cases.py tries in each leaf's own dtype."""
    if law is testing.descends and make is ft.scale_by_muon:
        make = lambda: ft.chain(ft.scale_by_muon(), ft.scale_by_lr(1e-3))  # noqa: E731
    check_law(law, make(), testing.params_and_grads())


@pytest.mark.parametrize("absent", ["w", "b"])
def test_traces_without_gradients_for_one_of_its_parts(absent: str) -> None:
    """A tracer of Python meets no tree that holds no tensor, and the part keeps its leaves and its state."""
    params = {"w": normal(0, (3, 2)), "b": normal(1, (2,))}
    grads = {**params, absent: None}
    optimizer = ft.muon(ns_dtype=None)
    testing.traces_as_one_graph(optimizer, params, grads)
    state = optimizer.init(params)
    updates, new = optimizer.update(grads, state, params)
    assert updates[absent] is None
    part = "matrices" if absent == "w" else "others"
    assert_bitwise(getattr(new, part), getattr(state, part))


OPTIONS = {"momentum": 0.8, "nesterov": False, "ns_steps": 3, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
ADAM = {"adam_lr": 0.02, "adam_betas": (0.8, 0.9), "adam_weight_decay": 0.1, "adam_eps": 1e-6}


@pytest.mark.parametrize(
    ("name", "options"),
    [("muon", {"weight_decay": 0.0, "adam_weight_decay": 0.0}), ("muon_options", {**OPTIONS, **ADAM})],
)
@pytest.mark.parametrize("which", ["given", "quadratic"])
def test_equals_pytorch_optimizer(name: str, options: dict[str, Any], which: Any) -> None:
    """Leaves of more dimensions, as matrices of `shape[0]` rows, follow pytorch_optimizer's Muon in float64.

    Optax's differs from torch's rule: its Nesterov corrects for the zero start, and its factor is the transpose's.
    """
    case, expected = load.case("pytorch_optimizer", name), load.figures("pytorch_optimizer", name, which)
    options = {"adam_betas": (0.9, 0.95), "adam_eps": 1e-10, **options}
    optimizer = ft.muon(0.05, ns_dtype=None, matrices=lambda path, leaf: leaf.ndim >= 2, **options)
    params = problem.start(case.leaves)
    state, gradients = optimizer.init(params), getattr(problem, which)
    for step in range(1, 51):
        params, state = ft.make_update(optimizer)(gradients(step, params), state, params)
        if step in expected:
            assert_close(params, expected[step], 1e-10)


def test_a_predicate_chooses_the_matrices() -> None:
    """Globs and functions of path and leaf choose; what they leave gets AdamW's update, to the bit."""
    params = {"embed": normal(0, (4, 3)), "layers": [{"w": normal(1, (3, 3))}, {"b": normal(2, (3,))}], "none": None}
    grads = ft.tree.map(torch.sin, params)
    adam, _ = (tx := ft.adamw(0.1)).update(grads, tx.init(params), params)
    for chosen in ("layers/*/w", ["layers/0/*"], lambda path, leaf: leaf.ndim == 2 and path != "embed"):
        optimizer = ft.muon(0.1, matrices=chosen)
        updates, state = optimizer.update(grads, optimizer.init(params), params)
        assert_bitwise((updates["embed"], updates["layers"][1]), (adam["embed"], adam["layers"][1]))
        assert ft.tree.paths(state.matrices) == ["0/momentum_buffer/layers/0/w"]
        assert not torch.equal(updates["layers"][0]["w"], adam["layers"][0]["w"])
    with pytest.raises(ft.PathError, match="no path matches 'hidden"):
        ft.muon(matrices="hidden/*").init(params)


def test_a_kernel_is_a_matrix_of_its_channels() -> None:
    """A leaf of more dimensions gives what its flattened form gives."""
    kernel = normal(0, (4, 3, 2, 2))
    tx = ft.scale_by_muon(adjust_lr_fn="match_rms_adamw")
    updates, _ = tx.update(kernel, tx.init(kernel), None)
    flattened, _ = tx.update(kernel.reshape(4, 12), tx.init(kernel.reshape(4, 12)), None)
    assert_bitwise(updates, flattened.reshape(kernel.shape))


@given(seeds(), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=examples(20))
def test_singular_values_come_near_one(seed: int, rows: int, columns: int) -> None:
    """With coefficients that converge, many steps give the orthogonal factor of the polar decomposition."""
    # Singular values between 1 and 2, so that the iteration has converged.
    u, _, v = torch.linalg.svd(normal(seed, (rows, columns)), full_matrices=False)
    sizes = torch.linspace(1.0, 2.0, min(rows, columns), dtype=torch.float64)
    tx = ft.scale_by_muon(ns_coefficients=(15 / 8, -10 / 8, 3 / 8), ns_steps=20, ns_dtype=None)
    updates, _ = tx.update(u @ torch.diag(sizes) @ v, tx.init(torch.zeros(rows, columns, dtype=torch.float64)), None)
    assert_close(updates / max(1, rows / columns) ** 0.5, u @ v, 1e-12)


def test_reaches_a_minimum() -> None:
    """A two-layer network fits what another made."""
    x, teacher = normal(0, (64, 3)), {"w1": normal(1, (3, 4)), "b1": normal(2, (4,)), "w2": normal(3, (4, 2))}
    apply = lambda params: torch.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]  # noqa: E731
    loss_fn = lambda params, batch: (apply(params) - apply(teacher)).square().mean()  # noqa: E731
    start = ft.tree.map(lambda leaf: leaf + 0.3 * torch.sin(7 * leaf), teacher)
    optimizer = ft.muon(ft.schedules.linear(0.1, 0.0, 300), weight_decay=0.0, adam_weight_decay=0.0)
    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
    reached = ft.fold(step, ft.init_state(start, optimizer), [None] * 300).params
    assert loss_fn(reached, None) < 1e-4 < 1e-2 < loss_fn(start, None)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"lr": -1.0}, r"lr must be .* >= 0, got -1\.0"),
    ({"weight_decay": -0.1}, r"weight_decay must be .*, got -0\.1"),
    ({"momentum": -0.1}, r"momentum must be .*, got -0\.1\. 0\.95 is usual"),
    ({"eps": -1.0}, r"eps must be .*, got -1\.0\. 1e-7 is usual"),
    ({"ns_steps": 2.0}, r"ns_steps must be an int >= 0, got 2\.0\. 5 is usual"),
    ({"ns_steps": 100}, r"ns_steps must be below 100, got 100\. 5 is usual"),
    ({"ns_coefficients": (1.0, 2.0)}, r"ns_coefficients must be three numbers, got \(1\.0, 2\.0\)"),
    ({"ns_coefficients": (1.0, 2.0, float("nan"))}, r"ns_coefficients\[2\] must be a finite number, got nan"),
    ({"adjust_lr_fn": "arbitrary"}, r"adjust_lr_fn must be None, 'original' or 'match_rms_adamw', got 'arbitrary'"),
    ({"adam_lr": -1.0}, r"lr must be .* >= 0, got -1\.0"),
    ({"adam_betas": (1.0, 0.9)}, r"betas\[0\] must be in \[0, 1\), got 1\.0"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ft.HyperparameterError, match=message):
        ft.muon(**options)


def test_what_torch_refuses_is_refused() -> None:
    """Error inputs of torch's own tests about hyperparameters, and complex matrices that are chosen by name."""
    with seeded():
        errors = INFO.optim_error_inputs_func("cpu", torch.float32)
    for one in errors:
        options = one.optimizer_error_input.kwargs
        if options:
            with pytest.raises(ft.HyperparameterError):
                ft.muon(**options)
    params = {"z": torch.zeros(2, 2, dtype=torch.complex64)}
    with pytest.raises(ft.StructureError, match=r"no rule for complex parameters, but 'z' is torch\.complex64"):
        ft.muon(matrices="z").init(params)
    assert ft.tree.leaves(ft.muon().init(params).matrices) == []
