"""A step that fails anywhere leaves everything as it was: an exception at every line, a host without memory."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import functional_train as ft
from tests.global_rng import seeded
from tests.trees import Witness, assert_bitwise, normal


class OnPurposeError(Exception):
    """What is raised in the middle of a step."""


# The step's own lines, those of the loss, and those of torch that may be in the middle of something. Left out is what
# enters and leaves a context: after an exception in the line that cleans up nobody cleans up.
WHOSE = tuple(
    str(Path(file).parent)
    for file in (ft.__file__, __file__, torch.optim.__file__, nn.__file__, torch.autograd.function.__file__)
)
CONTEXTS = ("grad_mode.py", "profiler.py")
CLEANING_UP = "generators"


class RaiseAt:
    """Raises at the n-th line of Python that is run inside, of those that count; counts them all where n is 0."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.seen = 0

    def __enter__(self) -> Self:
        self.before = sys.gettrace()
        self.outside = sys._getframe(1)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *raised: object) -> None:
        sys.settrace(self.before)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        del argument
        path = frame.f_code.co_filename
        if frame is self.outside or frame.f_code is type(self).__exit__.__code__ or path.endswith(CONTEXTS):
            return None
        if frame.f_code.co_name == CLEANING_UP:
            return None
        if not path.startswith(WHOSE):
            return None
        if event == "line":
            self.seen += 1
            if self.seen == self.place:
                raise OnPurposeError
        return self._trace


def loss_fn(params: Any, batch: Any) -> Tensor:
    x, y = batch
    return (torch.tanh(x @ params["w"]) @ params["v"] + params["b"] - y).square().mean()


def of(optimizer: ft.GradientTransformation, make: Callable[..., Any] = ft.make_step, init: Any = ft.init_state) -> Any:
    params = ft.Params({"w": normal(0, (4, 6)), "v": normal(1, (6, 2)), "b": normal(2, (2,))})
    fn = loss_fn if make is ft.make_scaled_step else ft.grad_and_value(loss_fn)
    return make(fn, optimizer), init(params, optimizer), (normal(3, (5, 4)), normal(4, (5, 2)))


def of_a_module() -> Any:
    """BatchNorm, dropout from a key, clipping and an average: everything that a state can own."""
    with seeded():
        module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    apply, params, buffers = ft.functionalize(module)

    def loss_fn(params: Any, batch: Any, *, key: Tensor, buffers: Any) -> Any:
        x, y = batch
        out, buffers = apply(params, x, buffers=buffers, key=key)
        return F.mse_loss(out, y), ft.Aux({"mean": out.mean()}, buffers)

    optimizer = ft.chain(ft.clip_by_global_norm(1.0), ft.adamw(ft.schedules.cosine(1e-2, 10)), ft.ema_params(0.9))
    state = ft.init_state(params, optimizer, buffers=buffers, key=ft.random.key(0))
    step = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), optimizer)
    return step, state, (normal(3, (5, 4)).float(), normal(4, (5, 2)).float())


STEPS: dict[str, Callable[[], Any]] = {
    "adamw": lambda: of(ft.adamw(0.1)),
    "sgd in groups": lambda: of(ft.param_groups(ft.sgd, {"b": {"lr": 0.2}}, lr=0.1, momentum=0.9)),
    "lbfgs": lambda: of(ft.lbfgs(0.1, max_iter=2)),
    "a class of torch": lambda: of(ft.wrap_torch_optimizer(torch.optim.RMSprop, lr=0.1)),
    "a module": of_a_module,
    "scaled": lambda: of(ft.sgd(0.1), ft.make_scaled_step, ft.init_scaled_state),
    "skipping": lambda: of(ft.sgd(0.1), ft.make_skipping_step, ft.init_skipping_state),
}


@contextmanager
def same_settings() -> Iterator[None]:
    """What a step might switch and not switch back."""

    def settings() -> Any:
        return (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
            torch._C._len_torch_dispatch_stack(),
            torch._C._len_torch_function_stack(),
            torch._C._functorch.peek_interpreter_stack(),
            torch.get_rng_state().tolist(),
        )

    before = settings()
    yield
    assert settings() == before


@pytest.mark.parametrize("name", STEPS)
def test_an_exception_at_any_line_leaves_the_state_as_it_was(name: str) -> None:
    """Wherever a step breaks off, in this library or in torch, old values hold and the step can be repeated."""
    step, state, batch = STEPS[name]()
    state, _ = step(state, batch)
    expected = step(state, batch)
    with RaiseAt(0) as counter:
        step(state, batch)
    assert counter.seen > 50
    witness = Witness(state, batch)
    raised = 0
    for place in range(1, counter.seen + 1):
        with same_settings():
            try:
                with RaiseAt(place):
                    step(state, batch)
            except OnPurposeError:
                raised += 1
        witness.check()
        if place % 25 == 0:
            assert_bitwise(step(state, batch), expected)
    assert_bitwise(step(state, batch), expected)
    # Some lines run where errors are answered, or while a cache is filled.
    assert raised > 0.9 * counter.seen


WITHOUT_MEMORY = """
import resource, sys
import torch
import functional_train as ft

def loss_fn(params, batch):
    return ((batch @ params["w"]).tanh() @ params["v"]).square().mean()

optimizer = ft.adamw(0.1)
step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
if sys.argv[1] == "compiled":
    step = ft.compile(step)
elif sys.argv[1] == "donated":
    step = ft.compile(step, donate=True)
key = ft.random.key(0)
params = ft.random.like(key, {"w": torch.empty(64, 2048), "v": torch.empty(2048, 64)})
fits, does_not = ft.random.normal(key, (8, 64)), ft.random.normal(key, (400_000, 64))
state = ft.fold(step, ft.init_state(params, optimizer), [fits])
if sys.argv[1] != "plain":
    step(ft.tree.copy(state), does_not[:9])
before = ft.tree.copy(state)
bytes_now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (bytes_now + (1 << 30), -1))
try:
    ft.fit(step, state, [fits, does_not, fits], keep_every=1, progress=False)
except RuntimeError as error:
    caught = error
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
assert "can't allocate memory" in str(caught), caught
assert all(torch.equal(*pair) for pair in zip(ft.tree.leaves(state), ft.tree.leaves(before)))
again, _ = ft.fit(step, caught.history.states[2], [fits], progress=False)
expected = ft.fold(step, before, [fits, fits])
assert all(torch.equal(*pair) for pair in zip(ft.tree.leaves(again), ft.tree.leaves(expected)))
print(caught.__notes__[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "compiled", "donated"])
def test_without_memory_a_run_keeps_what_it_reached(kind: str) -> None:
    """A batch that does not fit costs no number of any state that somebody holds, and the run goes on without it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_MEMORY, kind], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fit had taken 1 steps. The ")
    assert "smaller batches; ft.accumulate_updates" in done.stdout
    assert ("is lost" in done.stdout) == (kind == "donated")
