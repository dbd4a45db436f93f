"""A module's randomness from a key: while it runs, whatever draws is given the next of the key's numbers."""

import functools
import inspect
from collections.abc import Callable
from types import FrameType, FunctionType, SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction, checkpoint

from functional_train.models._draws import DRAWS, REFUSED
from functional_train.values._generators import first_draw, mark, set_back
from functional_train.values._watching import is_unmoded
from functional_train.values.errors import PurityError
from functional_train.values.random import fold_in

T = TypeVar("T")
_CHECKPOINT, _REENTRANT = inspect.unwrap(checkpoint).__code__, inspect.unwrap(CheckpointFunction.forward).__code__
# Python functions of torch that call what draws. They ask whether a mode wants them before they do anything.
_IN_PYTHON = ("torch.nn.functional", "torch.nn.init")
# These ask on behalf of the function that calls them.
_STAND_FOR: dict[Any, Any] = {
    getattr(torch.nn.functional, name): getattr(torch.nn.functional, f"_{name}")
    for name in ("fractional_max_pool2d", "fractional_max_pool3d")
}
# Of torch's own modules, those that draw.
_DRAWING = (
    *(nn.modules.dropout._DropoutNd, nn.RReLU, nn.RNNBase, nn.MultiheadAttention),
    *(nn.FractionalMaxPool2d, nn.FractionalMaxPool3d),
)


class KeyedDraws(TorchFunctionMode):
    """Inside it, the n-th draw takes `fold_in(key, n)`.

    What activation checkpointing computes again draws the same numbers, in whatever thread it runs.

    Args:
        key: A random key.
        count: How many draws came before.

    Example:
        >>> import functional_train as ft, torch
        >>> from functional_train.models._keyed import KeyedDraws
        >>> with KeyedDraws(ft.random.key(0)):
        ...     first = torch.rand(2)
        >>> with KeyedDraws(ft.random.key(0)):
        ...     print(bool((torch.rand(2) == first).all()))
        True
    """

    def __init__(self, key: Tensor, count: int = 0) -> None:
        super().__init__()
        self.key = key
        self.count = count

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        draw = DRAWS.get(func)
        if draw is not None:
            _remember(self)
            return draw(self.next_key, *args, **kwargs)
        if func in REFUSED:
            raise PurityError(
                f"{func.__name__} cannot draw from a key. Draw outside of the module with ft.random, or leave it out."
            )
        body = _body_of(_STAND_FOR.get(func, func)) if isinstance(func, FunctionType) else None
        if body is None:
            return func(*args, **kwargs)
        with self:
            return body(*args, **kwargs)

    def next_key(self) -> Tensor:
        """The key of the next draw."""
        key = fold_in(self.key, self.count)
        self.count += 1
        return key


@functools.cache
def _body_of(function: FunctionType) -> Callable[..., Any] | None:
    """A function of torch without its question whether a mode wants it, so that what it calls can be asked."""
    asked = [name for name in function.__code__.co_names if name.startswith("has_torch_function")]
    if function.__module__ not in _IN_PYTHON or not asked:
        return None
    names = {**function.__globals__, **dict.fromkeys(asked, _nobody)}
    if "overrides" in function.__code__.co_names:
        names["torch"] = _TorchUnasked()
    made = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def may_draw(module: nn.Module) -> bool:
    """Whether a forward could draw: any could, but those of torch's own modules that are known not to."""
    return any(isinstance(part, _DRAWING) or not _is_torchs_own(part) for part in module.modules())


def _is_torchs_own(part: nn.Module) -> bool:
    hooked = part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
    return type(part).__module__.startswith("torch.nn.modules.") and not hooked


def drawing_from(key: Tensor | None, run: Callable[[], T], owner: str) -> T:
    """Run a forward, with what it draws from a key; that it draws from anything else is an error.

    Args:
        key: A random key, or None where nothing is to be drawn.
        run: The forward. Where it drew without a key, it is run once more to find the line.
        owner: Name of the module's class.

    Raises:
        PurityError: it drew from a global generator of torch, which is then set back.
    """
    # Traces refuse draws themselves.
    if not is_unmoded():
        return _run(key, run)
    before = mark()
    output = _run(key, run)
    if mark() != before:
        line = first_draw(lambda: _run(key, run))
        if line is not None:
            set_back(before)
            fix = (
                "Pass key= to apply: key=ft.random.key(0), or in a step the key that the state owns. In evaluation "
                "nothing is drawn: train=False."
                if key is None
                else "This cannot be drawn from a key: draw outside of the module with ft.random, or leave it out."
            )
            raise PurityError(f"the forward of {owner} draws from the global generator of torch, with {line}\n{fix}")
    return output


def _run(key: Tensor | None, run: Callable[[], T]) -> T:
    if key is None:
        return run()
    if torch.compiler.is_compiling():
        with KeyedDraws(key):
            return run()
    depth = torch._C._len_torch_function_stack()
    try:
        with KeyedDraws(key):
            return run()
    finally:
        # An interrupt may come when a `with` is about to end, and the mode would stay for whatever runs next.
        while torch._C._len_torch_function_stack() > depth:
            torch._C._pop_torch_function_stack()


def _nobody(*_: Any) -> bool:
    return False


class _TorchUnasked:
    """torch, in which no mode wants anything, for code that asks `torch.overrides`."""

    overrides = SimpleNamespace(**{**vars(torch.overrides), "has_torch_function_variadic": _nobody})

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _remember(mode: KeyedDraws) -> None:
    """Have every checkpoint around this draw go on from here when it computes again."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is _CHECKPOINT:
            _have_recomputed(_frame_of(frame), "recompute_fn", mode)
        elif frame.f_code is _REENTRANT:
            _have_recomputed(frame.f_locals.get("ctx"), "run_function", mode)
        frame = frame.f_back


def _frame_of(frame: FrameType) -> Any:
    """What a checkpoint of the newer kind will compute from, which its generator holds."""
    generator = frame.f_locals.get("gen")
    return None if generator is None or generator.gi_frame is None else generator.gi_frame.f_locals.get("new_frame")


def _have_recomputed(holder: Any, name: str, mode: KeyedDraws) -> None:
    function = getattr(holder, name, None)
    if function is None or isinstance(function, _Again):
        return
    setattr(holder, name, _Again(function, mode.key, mode.count))


class _Again:
    """A function that draws what it drew the first time."""

    def __init__(self, function: Callable[..., Any], key: Tensor, count: int) -> None:
        self.function, self.key, self.count = function, key, count

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with KeyedDraws(self.key, self.count):
            return self.function(*args, **kwargs)
