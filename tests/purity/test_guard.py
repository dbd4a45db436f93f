"""`guard` stops code at the first thing that is not pure, before it happens where that can be."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import functional_train as ft
from functional_train.values._generators import generators, moved_since
from functional_train.values._settings import settings
from tests.global_rng import seeded
from tests.purity.drawing import DRAWING
from tests.purity.hidden import HIDING
from tests.purity.pure import PURE
from tests.purity.writing import WRITING

IMPURE = WRITING | HIDING | DRAWING

# What a guard cannot know: which tensors are arguments, what the result is, and what Python objects held before.
UNSEEN = {
    *("numpy alias", "x.data = other", "requires_grad_", "list", "dict", "array", "lying operation", "x.t_()"),
    *("returned view", "returned x.detach()", "returned NumPy view", "returned constant", "F.batch_norm"),
    *("weight held", "constant held", "partial", "array held", "hook", "hook of a module"),
    *("mode of a module", "hook of a given module", "log of a module", "attribute of an argument", "given set"),
    *("given generator seeded", "returned array", "cache", "log of a held module", "object that differs"),
    *("set", "queue", "metrics", "attribute of the function", "attribute of the class"),
    *(
        "generator of NumPy held",
        "generator of Python held",
        "counter",
        "itertools.count",
        "log",
        "attribute",
        "clock",
        "os.urandom",
    ),
    *("torch.empty", "new_empty", "resize_", "torch.empty under vmap"),
}
# What a guard stops although it is pure: it has no second call to compare with.
REFUSED = {"requires grad", "a generator of its own"}
# A guard that found nothing wrong with them would find them changed.
AT_THE_END = {
    *("numpy random", "torch.manual_seed", "os.environ", "grad mode", "default dtype", "threads", "autocast"),
    *("dispatch mode", "function mode"),
}


@pytest.mark.parametrize("name", sorted(IMPURE.keys() - UNSEEN))
def test_impure_code_is_stopped(name: str) -> None:
    """The first offence is raised with its line, and nothing was done."""
    fn, args = IMPURE[name].make()
    before = _bits(args)
    states, modes = generators(), settings()
    with pytest.raises(ft.PurityError) as caught, ft.guard():
        fn(*args)
    finding = caught.value.findings[0]
    if name not in AT_THE_END:
        assert "tests/purity/" in finding.line or "torch/nn" in finding.line
        assert _bits(args) == before
    assert moved_since(states) == []
    assert settings() == modes
    assert sys.getprofile() is None


def _bits(args: Any) -> list[bytes]:
    return [leaf.detach().numpy().tobytes() for leaf in ft.tree.leaves(args) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", sorted(PURE.keys() - REFUSED))
def test_pure_code_is_not_stopped(name: str) -> None:
    """What a pure function returns inside a guard is what it returns."""
    fn, args = PURE[name]()
    with ft.guard():
        fn(*args)


def test_the_usual_loop_is_stopped_at_backward_and_at_the_step() -> None:
    """Forward is no offence, a backward into the gradients of weights is one, and so is the step."""
    with seeded():
        model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with pytest.raises(ft.PurityError, match=r"backward\(\) adds to the gradient of a tensor \(float32"), ft.guard():
        model(torch.ones(3, 2)).sum().backward()
    assert model.weight.grad is None
    model(torch.ones(3, 2)).sum().backward()
    weight = model.weight.detach().clone()
    with pytest.raises(ft.PurityError, match=r"(add|_fused_adamw)_ writes to"), ft.guard():
        optimizer.step()
    assert torch.equal(model.weight, weight)


def test_a_training_run_of_ours_goes_through() -> None:
    """A fold of a step with buffers, a key and clipping is pure, and gives what it gives without a guard."""
    with seeded():
        module = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    apply, params, buffers = ft.functionalize(module)

    def loss_fn(params: Any, batch: Any, buffers: Any, key: Tensor) -> Any:
        x, y = batch
        output, buffers = apply(params, x, buffers=buffers, key=key, train=True)
        return F.cross_entropy(output, y), ft.Aux({}, buffers)

    optimizer = ft.chain(ft.clip_by_global_norm(1.0), ft.adamw())
    step = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), optimizer)
    state = ft.init_state(params, optimizer, buffers=buffers, key=ft.random.key(0))
    batches = [(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))] * 3
    with ft.guard():
        guarded = ft.fold(step, state, batches)
    plain = ft.fold(step, state, batches)
    assert ft.tree.same_structure(guarded, plain)
    assert torch.equal(guarded.key, plain.key)


def test_files(tmp_path: Path) -> None:
    """A file is not opened, and none is left behind."""
    path = tmp_path / "file"
    with pytest.raises(ft.PurityError, match=r"is opened for writing, in .*test_guard\.py"), ft.guard():
        path.write_text("x")
    assert not path.exists()
    with pytest.raises(ft.PurityError, match=r"torch\.save writes"), ft.guard():
        torch.save(torch.ones(1), path)
    assert not path.exists()
    with ft.guard():
        Path(__file__).read_text()
    path.write_text("x")
    assert path.read_text() == "x"


def test_the_end_names_all_that_was_left() -> None:
    """What can only be seen at the end is reported together, and put back."""
    states = generators()
    with pytest.raises(ft.PurityError) as caught, ft.guard():
        _leave(np.random.rand())  # noqa: NPY002  # it is the case
    assert {finding.kind for finding in caught.value.findings} == {"randomness", "setting"}
    assert moved_since(states) == []
    assert torch.get_default_dtype() == torch.float32


def _leave(value: Any) -> Any:
    torch.set_default_dtype(torch.float64)
    return value


def test_an_error_of_the_body_is_raised_as_it_is() -> None:
    """An error is not hidden behind what the body left behind, which is put back."""
    with pytest.raises(KeyError), ft.guard():
        {}[_leave("a")]
    assert torch.get_default_dtype() == torch.float32


def test_nested_and_repeated() -> None:
    """A guard inside a guard ends alone, and the outer one goes on."""
    kept = torch.ones(2)
    with ft.guard():
        with ft.guard():
            kept.add(1.0)
        with pytest.raises(ft.PurityError, match=r"writes to a tensor \(float32, shape"):
            kept.add_(1.0)
        with pytest.raises(ft.PurityError, match=r"the global generator of random is drawn from"):
            random.random()
        with pytest.raises(ft.PurityError, match=r"os\.mkdir"):
            Path("never").mkdir()
    assert torch.equal(kept, torch.ones(2))
    assert not Path("never").exists()
