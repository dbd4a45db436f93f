"""What a compiled function reads besides its arguments: whatever of it changes is seen at the next call."""

import random
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import functional_train as ft
from tests.global_rng import seeded
from tests.trees import assert_bitwise

X = torch.tensor([1.0, -2.0])
SCALE = 1.0
OPTIONS = {"scale": 1.0}


class Counted:
    """A class of the user's, with what methods read."""

    scale = 1.0

    def __init__(self, value: float) -> None:
        self.value = value
        self.inner = SimpleNamespace(scale=1.0)

    def scaled(self, x: Tensor) -> Tensor:
        return x * SCALE

    @staticmethod
    def scaled_too(x: Tensor) -> Tensor:
        return x * SCALE


class Slotted:
    """One without a dict."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value


def times_global(x: Tensor) -> Tensor:
    return x * SCALE


def times_setting(settings: Any) -> Callable[[Tensor], Tensor]:
    """A function that reads a module of settings."""
    return lambda x: x * settings.scale


def plus_nothing(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function that has another in its closure."""
    return lambda x: fn(x) + 0


def settings_module() -> ModuleType:
    """A module of settings, as a program of the user's has one."""
    made: Any = ModuleType("settings_of_a_program")
    made.scale = 1.0
    return made


def activation() -> nn.Module:
    return nn.LeakyReLU(0.1)


def with_buffer() -> nn.Module:
    made = nn.Module()
    made.register_buffer("factor", torch.ones(1))
    return made


class Held(SimpleNamespace):
    """The objects of one test, made anew."""


def held() -> Held:
    with seeded():
        layers = nn.Sequential(activation())
    return Held(
        counted=Counted(1.0), slotted=Slotted(1.0), settings=settings_module(), activation=activation(),
        layers=layers, module=with_buffer(), array=np.ones(2), options={"scale": 1.0}, parts=[1.0], pair=(1.0,),
        dtype=torch.float32, function=lambda x: 2 * x,
    )  # fmt: skip


def replace_global(name: str, value: Any) -> Callable[[Held, pytest.MonkeyPatch], None]:
    return lambda _, patch: patch.setattr(sys.modules[__name__], name, value)


def set_field(path: str, value: Any) -> Callable[[Held, pytest.MonkeyPatch], None]:
    *owners, field = path.split(".")

    def change(objects: Held, patch: pytest.MonkeyPatch) -> None:
        owner: Any = objects
        for name in owners:
            owner = getattr(owner, name)
        patch.setattr(owner, field, value)

    return change


Change = Callable[[Held, pytest.MonkeyPatch], None]
CHANGES: dict[str, tuple[Callable[[Held], Callable[[Tensor], Tensor]], Change]] = {
    "a global": (lambda _: times_global, replace_global("SCALE", 5.0)),
    "a global, in a function inside": (
        lambda _: lambda x: plus_nothing(lambda y: y * SCALE)(x) + 0, replace_global("SCALE", 5.0)
    ),
    "a global, in a method": (lambda o: lambda x: o.counted.scaled(x) + 0, replace_global("SCALE", 5.0)),
    "a global, in a static method": (lambda _: lambda x: Counted.scaled_too(x) + 0, replace_global("SCALE", 5.0)),
    "a global, in a compiled function": (
        lambda _: plus_nothing(ft.compile(times_global, backend="eager")),
        replace_global("SCALE", 5.0),
    ),
    "a global dict, replaced": (lambda _: lambda x: x * OPTIONS["scale"], replace_global("OPTIONS", {"scale": 5.0})),
    "an attribute": (lambda o: lambda x: x * o.counted.value, set_field("counted.value", 5.0)),
    "an attribute of an attribute": (
        lambda o: lambda x: x * o.counted.inner.scale, set_field("counted.inner.scale", 5.0)
    ),
    "an object, replaced": (
        lambda o: lambda x: x * o.counted.inner.scale, set_field("counted.inner", SimpleNamespace(scale=5.0))
    ),
    "an attribute without a dict": (lambda o: lambda x: x * o.slotted.value, set_field("slotted.value", 5.0)),
    "an attribute of a class": (
        lambda _: lambda x: x * Counted.scale, lambda _, patch: patch.setattr(Counted, "scale", 5.0)
    ),
    "a setting in a module": (
        lambda o: times_setting(o.settings), set_field("settings.scale", 5.0)
    ),
    "a number of a layer": (lambda o: lambda x: o.activation(x) + 0, set_field("activation.negative_slope", 0.5)),
    "a layer, replaced": (lambda o: lambda x: o.activation(x) + 0, set_field("activation", nn.ReLU())),
    "a layer inside, replaced": (lambda o: lambda x: o.layers(x) + 0, lambda o, _: o.layers.__setitem__(0, nn.ReLU())),
    "a buffer, replaced": (
        lambda o: lambda x: x * o.module.factor, lambda o, _: setattr(o.module, "factor", torch.full((1,), 5.0))
    ),
    "an array": (lambda o: lambda x: x * float(o.array[0]), lambda o, _: o.array.__setitem__(0, 5.0)),
    "an item": (lambda o: lambda x: x * o.options["scale"], lambda o, _: o.options.update(scale=5.0)),
    "a new item": (lambda o: lambda x: x * len(o.options), lambda o, _: o.options.update(other=5.0)),
    "a longer list": (lambda o: lambda x: x * sum(o.parts), lambda o, _: o.parts.append(5.0)),
    "a tuple, replaced": (lambda o: lambda x: x * o.pair[0], set_field("pair", (5.0,))),
    "a function, replaced": (lambda o: lambda x: o.function(x) + 0, set_field("function", lambda x: 5 * x)),
    "a dtype": (lambda o: lambda x: x.to(o.dtype), set_field("dtype", torch.float64)),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call computes what the plain function does, and its variant says why it was made."""
    made, change = CHANGES[name]
    objects = held()
    # A module that is in no file of a library is the user's.
    monkeypatch.setitem(sys.modules, objects.settings.__name__, objects.settings)
    plain = made(objects)
    compiled = ft.compile(plain, backend="eager")
    assert_bitwise(compiled(X), plain(X))
    compiled(X)
    assert compiled.cache_info()[:2] == (1, 1)
    change(objects, monkeypatch)
    assert_bitwise(compiled(X), plain(X))
    assert compiled.cache_info().misses == 2
    assert "traced" in compiled.reports()[1].cause


def test_what_functions_among_the_arguments_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that is passed is constant, but not what it reads."""
    compiled = ft.compile(lambda x, fn: fn(x), backend="eager")
    compiled(X, times_global)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 5.0)
    assert_bitwise(compiled(X, times_global), 5 * X)


def test_steps_that_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they read is compared too."""
    step = ft.repeat(lambda total, x: (total + SCALE * x, {"total": total}), 2)
    compiled = ft.compile(step, backend="eager")
    compiled(X, torch.stack([X, X]))
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 5.0)
    assert_bitwise(compiled(X, torch.stack([X, X]))[0], 11 * X)


def test_a_captured_tensor_begins_to_require_grad() -> None:
    """It is refused then, and not cut off from the graph of whoever trains it."""
    weight = torch.ones(2)
    compiled = ft.compile(lambda x: x * weight, backend="eager")
    compiled(X)
    weight.requires_grad_()
    with pytest.raises(ft.CompileError, match=r"reads 'weight' of .*, which requires grad .*requires_grad_\(False\)"):
        compiled(X)


INDEX, FLAG = torch.tensor(1), torch.tensor(True)
READS: dict[str, Callable[[Tensor], Tensor]] = {
    "item": lambda x: x * INDEX.item(),
    "branch": lambda x: x if FLAG else -x,
    "index": lambda x: x[INDEX] * 1,
}


@pytest.mark.parametrize("name", READS)
def test_numbers_in_captured_tensors(name: str) -> None:
    """Python cannot read them: a later change would not be seen."""
    with pytest.raises(ft.CompileError, match=r"(?s)Python reads a number from .*test_captured\.py.*Keep it a tensor"):
        ft.compile(READS[name], backend="eager")(X)


def test_captured_views_that_negate() -> None:
    """Their memory holds other numbers, so they are named; as arguments they are resolved."""
    negated = torch.tensor([1 + 2j, 3 - 1j]).conj().imag
    assert negated.is_neg()
    with pytest.raises(ft.CompileError, match=r"reads 'negated' of .*resolve_neg"):
        ft.compile(lambda x: x * negated, backend="eager")(X)
    expected = negated * 1.5
    assert_bitwise(ft.compile(lambda x: x * 1.5, backend="eager")(negated), expected)
    assert_bitwise(ft.compile(lambda k, x: x * 1.5, backend="eager")(0, negated), expected)


DRAWS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "Python's": (lambda x: x * random.uniform(0, 1), r"test_captured\.py:\d+"),
    "NumPy's": (lambda x: x * np.random.rand(), "a call of numpy.random"),  # noqa: NPY002
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_of_other_libraries(name: str) -> None:
    """They are made while tracing only, so they are refused, with the line."""
    with (
        seeded(),
        pytest.raises(ft.CompileError, match=rf"(?s)generator of Python or NumPy.* in .*{DRAWS[name][1]}.*ft\.random"),
    ):
        ft.compile(DRAWS[name][0], backend="eager")(X)


def test_draws_of_a_generator_of_ones_own() -> None:
    """It is not called the global one."""
    generator = torch.Generator()
    with pytest.raises(ft.CompileError, match=r"draws from a torch\.Generator, whose draws a graph cannot repeat"):
        ft.compile(lambda x: x + torch.rand(2, generator=generator), backend="eager")(X)


def test_draws_of_other_threads() -> None:
    """They are not the function's."""
    ended = threading.Event()

    def draw() -> None:
        while not ended.wait(0):
            random.random()

    with seeded():
        thread = threading.Thread(target=draw)
        thread.start()
        try:
            assert_bitwise(ft.compile(lambda x: x * 2, backend="eager")(X), X * 2)
        finally:
            ended.set()
            thread.join()


def test_an_error_while_tracing_has_the_line() -> None:
    """Torch's own message, and where it was."""
    with pytest.raises(RuntimeError) as caught:
        ft.compile(lambda x: F.linear(x, x[:1].reshape(1, 1)), backend="eager")(X)
    [note] = caught.value.__notes__
    assert note.startswith("This was raised while the function was traced, in ")
    assert "test_captured.py" in note
