"""Every class of torch.optim, wrapped, is the class: bit for bit, and as a value."""

import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing._internal.common_optimizers import optim_db

import functional_train as ft
import functional_train.testing as laws
from tests.profiles import examples
from tests.trees import Witness, assert_bitwise, like, nestings, normal, tensors
from tests.updates.both_ways import (
    SHAPES,
    as_object,
    as_values,
    assert_same_both_ways,
    grad_and_value,
    gradients,
    start,
)

# Options that need another device, or parameters that are not leaves.
ELSEWHERE = {"capturable", "differentiable"}
OPTION_SETS = {
    f"{info.optim_cls.__name__}-{options.desc}": (info.optim_cls, options.kwargs)
    for info in optim_db
    for options in info.optim_inputs_func("cpu")
    if not ELSEWHERE & set(options.kwargs)
}
CLASSES = {info.optim_cls.__name__: info.optim_cls for info in optim_db}
LAWS = (
    laws.updates_are_like_params,
    laws.state_keeps_its_structure,
    laws.ignores_names_and_order,
    laws.is_pure,
    laws.resumes_from_leaves,
    laws.runs_are_independent,
)


def test_all_classes_are_tried() -> None:
    """The table has every optimizer class that torch.optim has."""
    members = {name for name, value in vars(torch.optim).items() if isinstance(value, type)}
    assert set(CLASSES) == members - {"Optimizer"}
    assert {cls.__name__ for cls, _ in OPTION_SETS.values()} == set(CLASSES)


def settings_for(cls: type[torch.optim.Optimizer]) -> dict[str, Any]:
    """What a class asks of its parameters and gradients."""
    if cls is torch.optim.Muon:
        return {"shapes": dict.fromkeys(SHAPES, (4, 3))}
    if cls is torch.optim.SparseAdam:
        shapes = {name: shape for name, shape in SHAPES.items() if shape}
        return {"shapes": shapes, "gradients_fn": lambda step, params: gradients(step, params, sparse=True)}
    if cls is torch.optim.LBFGS:
        # It moves parameters that have no gradient by their past ones.
        return {"closure": True, "gradients_fn": lambda step, params: gradients(step, params, absent=False)}
    return {}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # made by the classes
@pytest.mark.parametrize("name", OPTION_SETS)
def test_equals_the_class(name: str) -> None:
    """Ten steps from one state to the next, each made anew from its leaves, are ten steps of one object."""
    cls, kwargs = OPTION_SETS[name]
    assert_same_both_ways(cls, kwargs, **settings_for(cls))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # made by the classes
@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.Adagrad])
def test_takes_sparse_gradients(cls: type[torch.optim.Optimizer]) -> None:
    """A class that knows sparse gradients is given them as they are."""
    shapes = {name: shape for name, shape in SHAPES.items() if shape}
    sparse = lambda step, params: gradients(step, params, sparse=True)  # noqa: E731
    assert_same_both_ways(cls, {"lr": 0.1}, shapes=shapes, gradients_fn=sparse)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("name", ["Adam-default", "Adagrad-default", "RMSprop-default", "Rprop-default"])
def test_keeps_dtypes(name: str, dtype: torch.dtype) -> None:
    """State has the dtypes that the class gives it: nothing is cast to those of the parameters."""
    cls, kwargs = OPTION_SETS[name]
    if dtype.is_complex and cls is torch.optim.Rprop:
        kwargs = {"lr": 1e-3}
    params = {name: normal(place, shape, dtype) for place, (name, shape) in enumerate(SHAPES.items())}
    actual = as_values(ft.wrap_torch_optimizer(cls, **kwargs), params, like)
    assert_bitwise(actual, as_object(lambda own: cls(own, **kwargs), params, like))
    state = ft.wrap_torch_optimizer(cls, **kwargs).init(params)
    assert {leaf["step"].dtype for leaf in state.leaves.values()} == {torch.float32}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor])
def test_keeps_the_law(cls: type[torch.optim.Optimizer], law: Any) -> None:
    """On trees of any kind the wrapped class is a pure function whose state is all that it knows."""
    optimizer = ft.wrap_torch_optimizer(cls, lr=0.01)

    @settings(max_examples=examples(6))
    @given(laws.params_and_grads())
    def holds(drawn: Any) -> None:
        law(optimizer, *drawn)

    holds()


@settings(max_examples=examples(20))
@given(nestings(tensors()), st.integers(0, 2**31))
def test_containers_play_no_part(params: Any, seed: int) -> None:
    """Random trees follow the class on their leaves."""
    optimizer = ft.wrap_torch_optimizer(torch.optim.NAdam, lr=0.1)
    own = [torch.nn.Parameter(leaf.clone()) for leaf in ft.tree.leaves(params)]
    reference, state = torch.optim.NAdam(own, lr=0.1), optimizer.init(params)
    for step in range(3):
        grads = like(seed + step, params)
        for leaf, grad in zip(own, ft.tree.leaves(grads), strict=True):
            leaf.grad = grad.clone()
        reference.step()
        params, state = ft.make_update(optimizer)(grads, state, params)
    assert_bitwise(ft.tree.leaves(params), [leaf.detach() for leaf in own])


def test_what_is_not_floating_stays() -> None:
    """A class sees only the leaves that can have a gradient."""
    params = {"n": torch.tensor(3), "w": torch.ones(2), "z": None}
    optimizer = ft.wrap_torch_optimizer(torch.optim.Adam, lr=0.1)
    grads = {"n": None, "w": torch.ones(2), "z": None}
    moved, state = ft.make_update(optimizer)(grads, optimizer.init(params), params)
    assert moved["n"] is params["n"]
    assert moved["z"] is None
    assert state.leaves["n"] == {}
    assert not torch.equal(moved["w"], params["w"])


@pytest.mark.parametrize("params", [{}, (), {"a": None}, {"n": torch.tensor(3)}], ids=str)
def test_nothing_to_move_is_fine(params: Any) -> None:
    """Classes refuse to be made for nothing; a transformation has nothing to do."""
    optimizer = ft.wrap_torch_optimizer(torch.optim.Adam)
    state, nothing = optimizer.init(params), ft.tree.map(lambda leaf: None, params)
    assert_bitwise(ft.make_update(optimizer)(nothing, state, params), (params, state))
    assert_bitwise(optimizer.update(nothing, state, params), (nothing, state))


def test_without_gradients_all_rests() -> None:
    """Where no leaf has a gradient neither parameters nor state move; a leaf that has none keeps its own."""
    params = start()
    optimizer = ft.wrap_torch_optimizer(torch.optim.AdamW, lr=0.1, weight_decay=0.5)
    moved, state = ft.make_update(optimizer)(gradients(5, params), optimizer.init(params), params)
    nothing = dict.fromkeys(params)
    assert_bitwise(ft.make_update(optimizer)(nothing, state, moved), (moved, state))
    assert_bitwise(optimizer.update(nothing, state, moved), (nothing, state))
    again, after = ft.make_update(optimizer)({**gradients(6, params), "a": None}, state, moved)
    assert_bitwise((again["a"], after.leaves["a"]), (moved["a"], state.leaves["a"]))


def test_applied_updates_land_beside_the_class() -> None:
    """Added to the parameters, updates round once more and no worse."""
    params = start(dtype=torch.float64)
    optimizer = ft.wrap_torch_optimizer(torch.optim.Adagrad, lr=0.1)
    grads, state = gradients(5, params), optimizer.init(params)
    updates, state = optimizer.update(grads, state, params)
    moved, _ = ft.make_update(optimizer)(grads, optimizer.init(params), params)
    for name, leaf in ft.apply_updates(params, updates).items():
        # One rounding of the difference and one of the sum.
        scale = torch.maximum(params[name].abs(), moved[name].abs())
        assert ((leaf - moved[name]).abs() <= scale * torch.finfo(torch.float64).eps).all()


def test_nothing_of_the_callers_is_touched() -> None:
    """Arguments keep their bits and versions, and share no memory with results; a tensor argument is a copy too."""
    lr, params = torch.tensor(0.1), start()
    optimizer = ft.wrap_torch_optimizer(torch.optim.Adam, lr=lr)
    state, grads = optimizer.init(params), gradients(3, params, absent=False)
    witness = Witness(lr, params, state, grads)
    with laws.assert_global_rng_untouched():
        moved, after = ft.make_update(optimizer)(grads, state, params)
    expected = ft.tree.copy(moved)
    for leaf in ft.tree.leaves((moved, after)):
        leaf.add_(1)
    witness.check()
    lr.add_(1)
    assert_bitwise(ft.make_update(optimizer)(grads, state, params)[0], expected)


def test_a_state_can_be_pickled() -> None:
    """The layout goes with the state, wherever it goes."""
    optimizer, params = ft.wrap_torch_optimizer(torch.optim.LBFGS), start()
    params, state = ft.make_update(optimizer)(params, optimizer.init(params), params, grad_and_value_fn=grad_and_value)
    assert_bitwise(pickle.loads(pickle.dumps(state)), state)


def test_is_a_part_like_any_other() -> None:
    """It stands in a chain, and in a step of training, which hands LBFGS its loss and reaches the minimum."""
    clipped = ft.chain(ft.clip_by_global_norm(0.1), ft.wrap_torch_optimizer(torch.optim.SGD, lr=1.0))
    params = {"w": torch.tensor([3.0, 4.0])}
    moved, _ = ft.make_update(clipped)(params, clipped.init(params), params)
    torch.testing.assert_close(moved["w"], torch.tensor([2.94, 3.92]))

    def rosenbrock(params: Any, batch: Any) -> Any:
        x, y = params["xy"]
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    optimizer = ft.wrap_torch_optimizer(torch.optim.LBFGS, line_search_fn="strong_wolfe", tolerance_change=0.0)
    step = ft.make_step(ft.grad_and_value(rosenbrock), optimizer)
    state = ft.init_state({"xy": torch.tensor([-1.2, 1.0], dtype=torch.float64)}, optimizer)
    state = ft.fold(step, state, [None] * 6)
    torch.testing.assert_close(state.params["xy"], torch.ones(2, dtype=torch.float64))


def test_a_closure_keeps_absent_gradients_absent() -> None:
    """What had no gradient at the start of a step has none when the loss is computed anew."""
    params = {"w": torch.ones(2), "frozen": torch.ones(2)}
    optimizer = ft.wrap_torch_optimizer(torch.optim.LBFGS)
    grads = {**grad_and_value(params)[0], "frozen": None}
    moved, state = ft.make_update(optimizer)(grads, optimizer.init(params), params, grad_and_value_fn=grad_and_value)
    assert torch.equal(moved["frozen"], params["frozen"])
    assert torch.equal(state.shared["self/_numel_cache"], torch.tensor(4))
    assert not torch.equal(moved["w"], params["w"])


def test_a_failing_loss_is_not_blamed_on_the_state() -> None:
    """What the loss raises inside a step comes out as it is, though the state has grown since it was made."""
    optimizer = ft.wrap_torch_optimizer(torch.optim.LBFGS)
    update_fn, params = ft.make_update(optimizer), start()
    params, state = update_fn(params, optimizer.init(params), params, grad_and_value_fn=grad_and_value)

    def failing(params: Any) -> Any:
        raise RuntimeError("out of batches")

    with pytest.raises(RuntimeError, match="out of batches"):
        update_fn(params, state, params, grad_and_value_fn=failing)


# Made by a mistake, the error, and what it says.
MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "an object": (
        lambda: ft.wrap_torch_optimizer(torch.optim.SGD([torch.ones(1)])),
        ft.StructureError,
        "takes a subclass of torch.optim.Optimizer, got a SGD. Pass the class",
    ),
    "another class": (lambda: ft.wrap_torch_optimizer(dict), ft.StructureError, "got dict"),
    "unknown argument": (
        lambda: ft.wrap_torch_optimizer(torch.optim.SGD, speed=1.0),
        ft.HyperparameterError,
        r"refuses its arguments \{'speed': 1.0\}: .*unexpected keyword argument 'speed'",
    ),
    "argument out of range": (
        lambda: ft.wrap_torch_optimizer(torch.optim.SGD, lr=-1.0),
        ft.HyperparameterError,
        "refuses its arguments .*Invalid learning rate",
    ),
    "shapes that the class refuses": (
        lambda: ft.wrap_torch_optimizer(torch.optim.Muon).init({"w": torch.ones(3)}),
        ft.StructureError,
        "cannot be made for these parameters.*2D parameters",
    ),
    "another class's state": (
        lambda: wrapped_update(torch.optim.SGD, state=ft.wrap_torch_optimizer(torch.optim.Adam).init(ones)),
        ft.StructureError,
        "SGD was given a state of torch.optim.adam.Adam.*call optimizer.init",
    ),
    "our own state": (lambda: wrapped_update(torch.optim.SGD, state=()), ft.StructureError, "was given a tuple"),
    "no parameters": (
        lambda: wrapped_update(torch.optim.SGD, params=None),
        ft.StructureError,
        "moves parameters, and the update was given none",
    ),
    "no closure": (
        lambda: wrapped_update(torch.optim.LBFGS),
        ft.HyperparameterError,
        "grad_and_value_fn=.*make_step passes",
    ),
    "vmap": (
        lambda: torch.func.vmap(lambda w: wrapped_update(torch.optim.SGD, {"w": w})["w"])(torch.ones(2, 3)),
        ft.StructureError,
        r"mapped over by vmap or differentiated. Use the function of this library.*ft\.adamw",
    ),
    "grad": (
        lambda: torch.func.grad(lambda w: wrapped_update(torch.optim.SGD, {"w": w})["w"].sum())(torch.ones(2)),
        ft.StructureError,
        "differentiated",
    ),
    "requires grad": (
        lambda: wrapped_update(torch.optim.SGD, {"w": torch.ones(2, requires_grad=True)}),
        ft.StructureError,
        "require grad: detach them",
    ),
    "state requires grad": (
        lambda: wrapped_update(
            torch.optim.Adagrad,
            state=ft.tree.map(
                lambda leaf: leaf.requires_grad_() if leaf.is_floating_point() else leaf,
                ft.wrap_torch_optimizer(torch.optim.Adagrad).init(ones),
            ),
        ),
        ft.StructureError,
        "differentiated",
    ),
    "make_fx": (
        lambda: torch.fx.experimental.proxy_tensor.make_fx(lambda w: wrapped_update(torch.optim.SGD, {"w": w})["w"])(
            torch.ones(2)
        ),
        ft.StructureError,
        "cannot be traced",
    ),
    "forward mode": (
        lambda: torch.func.jvp(
            lambda w: wrapped_update(torch.optim.SGD, {"w": w})["w"], (torch.ones(2),), (torch.ones(2),)
        ),
        ft.StructureError,
        "differentiated",
    ),
}

ones = {"w": torch.ones(2)}


def wrapped_update(cls: Any, params: Any = ones, state: Any = None) -> Any:
    """The parameters after one update, from its own state or another."""
    optimizer = ft.wrap_torch_optimizer(cls)
    state = optimizer.init(ones) if state is None else state
    updates, _ = optimizer.update(params if params is not None else ones, state, params)
    return updates


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained(name: str) -> None:
    """Each mistake raises the error of its kind and says what to do."""
    make, error, message = MISTAKES[name]
    with pytest.raises(error, match=f"(?s){message}"):
        make()


def test_the_classes_own_error_is_chained() -> None:
    """What torch said is the cause of what is raised."""
    with pytest.raises(ft.HyperparameterError) as caught:
        ft.wrap_torch_optimizer(torch.optim.Adam, betas=(2.0, 0.9))
    assert "Invalid beta parameter" in str(caught.value.__cause__)


def test_cannot_be_compiled() -> None:
    """A compiler is told, where it would trace the class itself."""
    optimizer = ft.wrap_torch_optimizer(torch.optim.SGD)
    state = optimizer.init(ones)
    torch.compiler.reset()
    traced = torch.compile(lambda params: optimizer.update(params, state, params)[0], fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"StructureError|cannot be traced"):
        traced(ones)
