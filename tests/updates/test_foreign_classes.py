"""Classes of other libraries, wrapped: their habits are values too, and what cannot be one is refused."""

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import functional_train as ft
import functional_train.testing as laws
from tests.global_rng import seeded
from tests.updates import foreign
from tests.updates.both_ways import NUM_STEPS, SHAPES, assert_same_both_ways, gradients, start

KEYS = tuple(ft.random.split(ft.random.key(3), NUM_STEPS))


@pytest.mark.parametrize("cls", [foreign.Counting, foreign.Estimating, foreign.Attributed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_class(cls: type[torch.optim.Optimizer], dtype: torch.dtype) -> None:
    """Ten steps from one state to the next, each made anew from its leaves, are ten steps of one object."""
    assert_same_both_ways(cls, {}, dtype=dtype)


def test_a_closure_is_made() -> None:
    """A class that raises without a closure is given one at each step."""
    assert_same_both_ways(foreign.Climbing, {"rho": 0.1}, closure=True)


def test_draws_come_from_the_key() -> None:
    """A key gives the draws of its seed, bit for bit, and leaves the global generators alone."""
    assert_same_both_ways(foreign.Noisy, {}, keys=KEYS)
    optimizer, params = ft.wrap_torch_optimizer(foreign.Noisy), start()
    state, grads = optimizer.init(params), gradients(5, params)
    with laws.assert_global_rng_untouched():
        first, second = (ft.make_update(optimizer)(grads, state, params, key=key)[0] for key in KEYS[:2])
    assert not torch.equal(first["a"], second["a"])


def test_numbers_and_containers_are_named() -> None:
    """What a state holds can be read by name; what is not made yet has its shape."""
    params = {"w": torch.ones(2)}
    optimizer = ft.wrap_torch_optimizer(foreign.Counting)
    state = optimizer.init(params)
    names = {"steps", "product", "compensation", "flips", "phase", "window", "norms"}
    assert set(state.leaves["w"]) == names | {"buffers/0.5", "buffers/0.9/0", "buffers/0.9/1/0", "buffers/0.9/1/1"}
    assert state.leaves["w"]["compensation"].shape == (2,)
    for _ in range(3):
        params, state = ft.make_update(optimizer)(params, state, params)
    assert ft.tree.get(state, "steps").tolist() == 3
    assert ft.tree.get(state, "steps").dtype == torch.int64
    assert ft.tree.get(state, "product").dtype == torch.float64
    assert ft.tree.get(state, "window").shape == (3, 2)


def test_only_what_a_step_writes_is_state() -> None:
    """Of the group and the object, what never changes is an argument and no state."""
    shared = {
        cls: set(ft.wrap_torch_optimizer(cls).init({"w": torch.ones(2)}).shared)
        for cls in (torch.optim.Adam, foreign.Counting, foreign.Estimating, foreign.Attributed)
    }
    assert shared == {
        torch.optim.Adam: set(),
        foreign.Counting: set(),
        foreign.Estimating: {"group0/numerator", "group0/d", "group0/k", "group0/weight_sum"},
        foreign.Attributed: {
            *("self/total_steps", "self/history", "self/last", "self/anchors"),
            *("state/ema/short", "state/ema/all"),
        },
    }


@pytest.mark.parametrize(
    "law", [laws.is_pure, laws.resumes_from_leaves, laws.runs_are_independent], ids=lambda law: law.__name__
)
@pytest.mark.parametrize("cls", [foreign.Counting, foreign.Estimating, foreign.Attributed, foreign.Noisy])
def test_keeps_the_law(cls: type[torch.optim.Optimizer], law: Any) -> None:
    """However a class keeps its memory, wrapped it is a pure function of a state."""
    params = start()
    law(ft.wrap_torch_optimizer(cls), params, gradients(7, params))


def test_a_draw_without_a_key_is_refused() -> None:
    """A class that draws says so at once, and the generator is where it was."""
    optimizer, params = ft.wrap_torch_optimizer(foreign.Noisy), start()
    with laws.assert_global_rng_untouched(), pytest.raises(ft.HyperparameterError, match=r"(?s)draws.*Pass key="):
        ft.make_update(optimizer)(params, optimizer.init(params), params)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (foreign.KeepsObjects, "KeepsObjects keeps a Projector at 'projector', which tensors cannot hold"),
        (foreign.KeepsParameters, "keeps a parameter itself, and no copy, at 'previous'"),
        (foreign.KeepsOptimizers, "keeps a SGD at 'self/inner', which tensors cannot hold"),
        (foreign.KeepsTheSameName, "keeps two values under the name '1'"),
    ],
)
def test_what_no_value_can_be_is_refused(cls: type[torch.optim.Optimizer], message: str) -> None:
    """A class whose memory cannot be described is refused when its state is made."""
    with pytest.raises(ft.StructureError, match=message):
        ft.wrap_torch_optimizer(cls).init(start())


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (foreign.SwitchesInTheState, "made 'late', which it had not in the steps that init tries"),
        (foreign.SwitchesInTheGroup, "changed 'phase' of group 0, which it had not"),
    ],
)
def test_a_change_of_structure_is_refused(cls: type[torch.optim.Optimizer], message: str) -> None:
    """What a class begins to remember later is never lost: the step that would lose it raises."""
    optimizer, params = ft.wrap_torch_optimizer(cls), start()
    state = optimizer.init(params)
    for _ in range(4):
        params, state = ft.make_update(optimizer)(params, state, params)
    with pytest.raises(ft.StructureError, match=message):
        ft.make_update(optimizer)(params, state, params)


# Why a class of the libraries is left out, beside those that need more arguments than parameters.
UNWRAPPABLE = {
    "AdaHessian": "differentiates gradients",
    "Conda": "keeps objects",
    "LoRARite": "needs matrices in pairs",
    "Magma": "keeps another optimizer",
    "SaRA": "keeps a dict by parameter",
    "ScalableShampoo": "keeps objects",
    "SophiaH": "differentiates gradients",
}
MATRICES_ONLY = {"SpectralSphere"}


def real_classes() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every class of the libraries that can be made from parameters alone."""
    for library in ("pytorch_optimizer", "schedulefree"):
        for name, cls in sorted(vars(importlib.import_module(library)).items()):
            if (
                inspect.isclass(cls)
                and issubclass(cls, torch.optim.Optimizer)
                and not cls.__module__.startswith("torch.")
            ):
                try:
                    with seeded(0):
                        cls([torch.nn.Parameter(torch.zeros(2, 2))])
                except (AttributeError, ImportError, RuntimeError, TypeError, ValueError):
                    continue
                yield name, cls


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pytorch_optimizer", "schedulefree")),
    reason="the libraries of the extra `oracles` are not installed",
)
def test_real_classes() -> None:
    """Every class that can be described, with its defaults, is the class bit for bit."""
    failed: dict[str, str] = {}
    worked = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, of every kind
        for name, cls in real_classes():
            if name in UNWRAPPABLE:
                with pytest.raises(ft.StructureError):
                    ft.wrap_torch_optimizer(cls).init(start())
                continue
            shapes = dict.fromkeys(SHAPES, (4, 3)) if name in MATRICES_ONLY else SHAPES
            try:
                _assert_real(cls, shapes)
                worked += 1
            except Exception as error:  # noqa: BLE001 - all that fail are listed
                failed[name] = str(error)[:300]
    assert not failed, f"{worked} classes work, these do not: {failed}"
    print(f"{worked} classes work")  # noqa: T201


def _assert_real(cls: Any, shapes: Any) -> None:
    closure = ft.wrap_torch_optimizer(cls).init(start(shapes)).layout.closure
    # With a closure some move parameters without gradients.
    given: Any = lambda step, params: gradients(step, params, absent=not closure)  # noqa: E731
    options: dict[str, Any] = {"shapes": shapes, "closure": closure, "gradients_fn": given, "moves": False}
    try:
        assert_same_both_ways(cls, {}, **options)
    except ft.HyperparameterError:
        assert_same_both_ways(cls, {}, **options, keys=KEYS)
