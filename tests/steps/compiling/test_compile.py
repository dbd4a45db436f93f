"""`compile`: which calls share a variant, what makes a new one, and what is refused."""

import functools
import logging
import re
import threading
from typing import Any

import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor, nn

import functional_train as ft
from functional_train.testing import assert_trees_close
from tests.global_rng import seeded
from tests.steps.compiling.problems import TARGET, adamw_step, fresh
from tests.trees import assert_bitwise, normal

X = normal(0, (3, 2))
FACTOR = 2.0


def eager(fn: Any) -> ft.Compiled:
    return ft.compile(fn, backend="eager")


def last_cause(compiled: ft.Compiled) -> str:
    return compiled.reports()[-1].cause


def test_one_variant_serves_calls_alike() -> None:
    """New numbers in the same layout find the variant; the counts say so, and the report has times."""
    compiled = eager(lambda x: {"twice": 2 * x, "name": "x"})
    for seed in range(3):
        x = normal(seed, (3, 2))
        out = compiled(x)
        assert out["name"] == "x"
        assert_bitwise(out["twice"], 2 * x)
    assert compiled.cache_info() == (2, 1, 64, 1)
    (report,) = compiled.reports()
    assert report.cause == "first call"
    assert report.trace_seconds > 0
    assert report.lower_seconds > 0
    assert report.operations >= 3


CHANGES: dict[str, tuple[Any, Any, str]] = {
    "shape": (X, X[:2], r"'tree' was float64 \(3, 2\) with strides \(2, 1\) on cpu and is float64 \(2, 2\)"),
    "strides": (X, normal(0, (2, 3)).T, r"with strides \(2, 1\) on cpu and is float64 \(3, 2\) with strides \(1, 3\)"),
    "dtype": (X, X.float(), r"was float64 .* and is float32"),
    "structure": (X, {"x": X}, r"the structure of the first argument was \(\*\) and is \({'x': \*}\)"),
    "constant": ((X, 2), (X, 3), r"'tree/1' was 2 and is 3"),
    "name": ((X, "a"), (X, "b"), r"'tree/1' was 'a' and is 'b'"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_makes_a_variant_and_says_why(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log and the report name what differs, with the path, old and new; both variants stay."""
    first, second, cause = CHANGES[name]
    compiled = eager(lambda tree: ft.tree.leaves(tree)[0] + 1)
    with caplog.at_level(logging.INFO, logger="functional_train.compile"):
        for argument in (first, second, first, second):
            assert_bitwise(compiled(argument), ft.tree.leaves(argument)[0] + 1)
    assert compiled.cache_info() == (2, 2, 64, 2)
    assert re.search(cause, last_cause(compiled))
    assert last_cause(compiled) in caplog.text


SETTINGS = {
    "grad mode": torch.no_grad,
    "autocast on CPU": functools.partial(torch.autocast, "cpu"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_belong_to_the_key(name: str) -> None:
    """A setting that a trace bakes in makes another variant, and the numbers are those of the plain function."""

    def product(x: Tensor) -> Tensor:
        return x @ x.T

    compiled, x = eager(product), X.float()
    compiled(x)
    with SETTINGS[name]():
        assert_bitwise(compiled(x), product(x))
    assert last_cause(compiled).startswith(
        f"{name} was False and is True" if "grad" not in name else f"{name} was True"
    )


def test_the_default_dtype_belongs_to_the_key() -> None:
    """A constant made inside follows the default dtype of the call."""
    compiled = eager(lambda x: torch.ones(2) + x)
    assert compiled(torch.ones(2)).dtype is torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert compiled(torch.ones(2)).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert "the default dtype was torch.float32 and is torch.float64" in last_cause(compiled)


def test_numbers_in_closures_globals_and_defaults_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that a trace baked in is looked at again at each call, through helpers and partials."""
    scale = 3.0

    def helper(x: Tensor, shift: float = 1.0) -> Tensor:
        return scale * x + shift

    def fn(power: int, x: Tensor) -> Tensor:
        return FACTOR * helper(x) ** power

    compiled = eager(functools.partial(fn, 2))
    assert_bitwise(compiled(X), 2 * (3 * X + 1) ** 2)
    scale = 4.0
    assert_bitwise(compiled(X), 2 * (4 * X + 1) ** 2)
    assert last_cause(compiled) == f"'scale' of {helper.__qualname__} was 3.0 when it was traced and is 4.0 now"
    monkeypatch.setattr(f"{__name__}.FACTOR", 5.0)
    assert_bitwise(compiled(X), 5 * (4 * X + 1) ** 2)
    helper.__defaults__ = (0.0,)
    assert_bitwise(compiled(X), 5 * (4 * X) ** 2)
    assert compiled.cache_info().misses == 4


def test_captured_tensors_are_inputs() -> None:
    """What is read without being given is seen when it changes, in place or by name."""
    offset = torch.ones(2, dtype=torch.float64)
    compiled = eager(lambda x: x + offset)
    assert_bitwise(compiled(X), X + 1)
    offset += 1
    assert_bitwise(compiled(X), X + 2)
    assert compiled.cache_info().misses == 1
    offset = torch.full((2,), 5.0, dtype=torch.float64)
    assert_bitwise(compiled(X), X + 5)


def test_modes_of_modules_are_compared() -> None:
    """A module that the function holds is traced in its mode."""
    with seeded():
        norm = nn.BatchNorm1d(2, affine=False, track_running_stats=True).double()
    norm.eval()
    compiled = eager(lambda x: norm(x) if not norm.training else x)
    assert_bitwise(compiled(X), norm(X))
    norm.train()
    assert_bitwise(compiled(X), X)
    assert "the mode 'training' of 'norm' of" in last_cause(compiled)


REFUSED: dict[str, tuple[Any, str]] = {
    "draw": (
        lambda x: F.dropout(x, 0.5),
        r"(?s)bernoulli_.* draws from the global generator of torch.*F\.dropout\(x, 0\.5\).*ft\.random",
    ),
    "rand": (lambda x: x + torch.rand(2), r"(?s)rand.* draws from the global generator of torch.*torch\.rand\(2\)"),
    "write": (lambda x: x.add_(1), r"(?s)add_.* writes to the argument 'x', in .*x\.add_\(1\).*x = x \+ 1"),
    "write to a view": (lambda x: x[0].mul_(2), r"writes to the argument 'x'"),
    "branch": (lambda x: x if x.sum() > 0 else -x, r"(?s)control flow.*if x\.sum\(\) > 0.*torch\.where"),
    "item": (lambda x: x * x.sum().item(), r"(?s)numbers in a tensor.*item\(\).*0-d tensors"),
    "mask": (lambda x: x[x > 0], r"(?s)shape of a result.*x\[x > 0\].*mask instead"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_graph_cannot_hold(name: str) -> None:
    """The error has the user's line and what to write instead, and the arguments are as they were."""
    fn, message = REFUSED[name]
    x = X.clone()
    with pytest.raises(ft.CompileError, match=message) as error:
        eager(fn)(x)
    assert "test_compile.py:" in str(error.value)
    assert_bitwise(x, X)


def test_a_write_to_a_captured_tensor() -> None:
    """It is named."""
    total = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ft.CompileError, match=r"writes to 'total' of .*, which is no argument"):
        eager(lambda x: total.add_(x[0]))(X)
    assert_bitwise(total, torch.zeros(2, dtype=torch.float64))


def test_a_captured_weight() -> None:
    """A module called with its own weights is named, and so is the way to pass them."""
    with seeded():
        layer = nn.Linear(2, 2).double()
    with pytest.raises(
        ft.CompileError, match=r"reads 'weight' of the module in 'layer' .*, which requires grad.*functionalize"
    ):
        eager(lambda x: layer(x) + 1)(X)


def test_wrong_arguments() -> None:
    """An unknown backend, no function, what cannot be a constant."""
    with pytest.raises(ft.HyperparameterError, match=r"one of 'inductor', 'cudagraphs', 'eager', got 'jit'"):
        ft.compile(lambda x: x, backend="jit")
    with pytest.raises(ft.StructureError, match="compile takes a function, got a int"):
        ft.compile(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ft.StructureError, match="'x' is a set: neither a tensor nor a constant"):
        eager(lambda x: x)({1, 2})


def test_a_gradient_around_it_is_not_cut(caplog: pytest.LogCaptureFixture) -> None:
    """With arguments that require grad the function runs as it is, and says so once."""
    compiled = eager(lambda params: params["w"] * 2)
    w = X.clone().requires_grad_()
    for _ in range(2):
        assert compiled({"w": w}).requires_grad
    assert caplog.text.count("runs as it is, uncompiled: 'params/w' requires grad") == 1


def test_many_variants_warn() -> None:
    """At the eighth a warning says what keeps changing, and what to do."""
    compiled = eager(lambda x: x + 1)
    for rows in range(1, 8):
        compiled(torch.ones(rows))
    with pytest.warns(RuntimeWarning, match=r"compiled 8 times, last because .*\(7,\).*\(8,\).*pad or drop"):
        compiled(torch.ones(8))


def test_the_cache_is_bounded() -> None:
    """The variant used longest ago goes first."""
    compiled = eager(lambda x, n: x + n)
    for number in range(7):
        compiled(X, number)
    with pytest.warns(RuntimeWarning, match="compiled 8 times"):
        compiled(X, 7)
    for number in range(8, 65):
        compiled(X, number)
    assert compiled.cache_info() == (0, 65, 64, 64)
    compiled(X, 64)
    assert compiled.cache_info().hits == 1
    compiled(X, 0)
    assert compiled.cache_info().misses == 66


def test_a_smaller_last_batch() -> None:
    """It is one more variant, and the state goes on through both."""
    with seeded():
        apply, params, _ = ft.functionalize(nn.Linear(2, 1).double())
    step = ft.make_step(ft.grad_and_value(lambda p, x: apply(p, x).square().mean()), optimizer := ft.adam(0.1))
    compiled = ft.compile(step, donate=True, backend="eager")
    states = [ft.init_state(params, optimizer) for _ in range(2)]
    for rows in (3, 3, 2, 3, 2):
        x = normal(rows, (rows, 2))
        (states[0], actual), (states[1], expected) = compiled(states[0], x), step(states[1], x)
        assert_trees_close(actual, expected, rtol=1e-12)
    assert compiled.cache_info() == (3, 2, 64, 2)


def test_threads_share_a_variant() -> None:
    """Calls from several threads trace once, and each has its own result."""
    compiled = eager(lambda x: x * 2)
    results: dict[int, Tensor] = {}

    def work(seed: int) -> None:
        results[seed] = compiled(normal(seed, (3, 2)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, result in results.items():
        assert_bitwise(result, normal(seed, (3, 2)) * 2)
    assert compiled.cache_info().misses == 1


def test_it_looks_like_the_function() -> None:
    """Name and docstring are those of the function, and showing it says what it is."""
    step, optimizer = adamw_step()
    compiled = ft.compile(step, donate=True, backend="eager")
    assert compiled.__name__ == "step"
    assert compiled.__wrapped__ is step
    assert repr(compiled) == "compile(step, donate=True)"
    state, metrics = compiled(fresh(optimizer), batch=TARGET)
    assert set(metrics) == {"loss"}
    assert int(state.step) == 1


def test_without_a_compiler() -> None:
    """The error says what to install, or what to pass."""
    absent = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True, "compile_threads": 1}
    with (
        torch._inductor.config.patch(absent),
        pytest.raises(ft.CompileError, match=r'found no C\+\+ compiler.*backend="eager"'),
    ):
        ft.compile(lambda x: x * 7.25 + 1)(X)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_any_batch_size(backend: str) -> None:
    """With dynamic=True a hundred sizes make two variants, one of them for a batch of one."""
    with seeded():
        apply, params, _ = ft.functionalize(nn.Linear(2, 1).double())
    step = ft.make_step(ft.grad_and_value(lambda p, x: apply(p, x).square().mean()), optimizer := ft.adam(0.1))
    compiled = ft.compile(step, donate=True, dynamic=True, backend=backend)
    states = [ft.init_state(params, optimizer) for _ in range(2)]
    for rows in (5, 3, *range(1, 101)):
        x = normal(rows, (rows, 2))
        (states[0], actual), (states[1], expected) = compiled(states[0], x), step(states[1], x)
        assert_trees_close(actual, expected, rtol=1e-12)
    assert compiled.cache_info().misses == 2
    assert "float64 (any length, 2)" in last_cause(compiled)


def test_sizes_that_matter_have_variants_of_their_own() -> None:
    """A branch on a size, or a size that is returned, is what the function does for that size."""

    def fn(x: Tensor) -> Any:
        return {"size": x.shape[0], "sum": x.sum() if x.shape[0] % 2 else -x.sum()}

    compiled = ft.compile(fn, dynamic=True, backend="eager")
    for rows in (4, 5, 6, 4, 5):
        out, expected = compiled(torch.ones(rows)), fn(torch.ones(rows))
        assert out["size"] == expected["size"]
        assert type(out["size"]) is int
        assert_bitwise(out["sum"], expected["sum"])
    assert compiled.cache_info().misses == 3


class Settings:
    """Numbers that a function reads from an object and a dict."""

    def __init__(self) -> None:
        self.scale = 2.0
        self.table = {"shift": 1.0, "steps": [1, 2]}


def test_numbers_in_objects_and_containers_are_compared() -> None:
    """An attribute, an item, and an item of a list inside are looked at again."""
    read = Settings()
    compiled = eager(lambda x: read.scale * x + read.table["shift"] + read.table["steps"][1])
    assert_bitwise(compiled(X), 2 * X + 1 + 2)
    read.scale = 3.0
    assert_bitwise(compiled(X), 3 * X + 1 + 2)
    read.table["shift"] = 0.0
    assert_bitwise(compiled(X), 3 * X + 0 + 2)
    read.table["steps"][1] = 5
    assert_bitwise(compiled(X), 3 * X + 0 + 5)
    assert compiled.cache_info() == (0, 4, 64, 1)


def test_a_captured_tensor_of_another_layout() -> None:
    """Memory is never read by a layout that it no longer has."""
    table = torch.ones(4, dtype=torch.float64)
    compiled = eager(lambda x: x.sum() + table.sum())
    assert_bitwise(compiled(X), X.sum() + 4)
    table.data = torch.ones(2, 2, dtype=torch.float64)
    assert_bitwise(compiled(X), X.sum() + 4)
    assert last_cause(compiled).startswith("a captured tensor had another layout")


def test_conjugate_views() -> None:
    """A view that says "conjugate" is another argument than the memory that it looks at."""
    z = torch.complex(normal(0, (3,)), normal(1, (3,)))
    compiled = eager(lambda z: torch.view_as_real(z * 2))
    for given_z in (z, z.conj(), z):
        assert_bitwise(compiled(given_z), torch.view_as_real((given_z * 2).resolve_conj()))
    assert_bitwise(eager(lambda x: x * 2)(z.conj().imag), -z.imag * 2)


def test_no_sparse_arguments() -> None:
    """The error says what to pass."""
    with pytest.raises(ft.CompileError, match=r"'x' is a torch.sparse_coo tensor, .*Pass a plain, dense tensor"):
        eager(lambda x: x)(X.to_sparse())


def test_mixed_precision() -> None:
    """Autocast inside the function is part of the graph."""
    loss_fn = ft.mixed_precision(lambda params, batch: (params["w"] @ batch).square().mean().float())
    optimizer = ft.sgd(0.1)
    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
    params = {"w": normal(0, (4, 3), torch.float32)}
    batch = normal(1, (3, 4), torch.float32)
    states = [ft.init_state(params, optimizer) for _ in range(2)]
    compiled = ft.compile(step, donate=True, backend="eager")
    for _ in range(3):
        (states[0], actual), (states[1], expected) = compiled(states[0], batch), step(states[1], batch)
        assert_trees_close(actual, expected, rtol=1e-6)
