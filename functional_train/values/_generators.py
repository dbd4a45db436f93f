"""The global random generators of a process, which nothing here may move."""

import ctypes
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._C._functorch import peek_interpreter_stack
from torch.utils._python_dispatch import TorchDispatchMode

from functional_train.values._lines import running_line
from functional_train.values._operands import given_by_name

# Arguments of operations that draw nothing where one of these is zero or false.
_RATES = ("dropout_p", "dropout", "train", "training")


def generators() -> dict[str, Any]:
    """The state of every global generator that is loaded; one that is not cannot have been drawn from before."""
    with torch._C._DisableFuncTorch():
        states: dict[str, Any] = {"torch": torch.get_rng_state().numpy().tobytes()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states |= {f"cuda:{index}": bytes(s.tolist()) for index, s in enumerate(torch.cuda.get_rng_state_all())}
    # Read through sys.modules: this library imports none that draws.
    if "random" in sys.modules:
        states["random"] = sys.modules["random"].getstate()
    if "numpy.random" in sys.modules:
        _, words, *rest = sys.modules["numpy.random"].get_state(legacy=True)
        states["numpy.random"] = (words.tobytes(), *rest)
    return states


def moved_since(before: Mapping[str, Any]) -> list[str]:
    """Names of those that have another state than they had."""
    after = generators()
    return [name for name, state in before.items() if after.get(name) != state]


def put_back(before: Mapping[str, Any]) -> None:
    """Bring every global generator back to where it was when `generators` was asked."""
    for name in moved_since(before):
        if name == "torch":
            torch.set_rng_state(torch.frombuffer(bytearray(before[name]), dtype=torch.uint8))
        elif name == "random":
            sys.modules["random"].setstate(before[name])
        elif name == "numpy.random":
            library: Any = sys.modules["numpy"]
            words, *rest = before[name]
            sys.modules["numpy.random"].set_state(("MT19937", library.frombuffer(words, dtype="uint32"), *rest))
        else:
            state = torch.frombuffer(bytearray(before[name]), dtype=torch.uint8)
            torch.cuda.set_rng_state(state, int(name.partition(":")[2]))


def mark() -> tuple[Any, ...]:
    """What changes with every draw from a global generator of torch, in a few microseconds."""
    if peek_interpreter_stack() is None:
        found: tuple[Any, ...] = (_bytes(torch.default_generator.get_state()),)
    else:
        # Transforms of torch.func would wrap the state, as if they had made it.
        with torch._C._DisableFuncTorch():
            found = (_bytes(torch.default_generator.get_state()),)
    if torch.cuda.is_initialized():
        found += tuple([generator.get_offset() for generator in torch.cuda.default_generators])
    return found


def _bytes(state: torch.Tensor) -> bytes:
    # A third of what it takes by way of NumPy.
    return ctypes.string_at(state.data_ptr(), state.nbytes)


def set_back(before: tuple[Any, ...]) -> None:
    """Bring the global generators of torch back to where they were at a mark."""
    with torch._C._DisableFuncTorch():
        torch.default_generator.set_state(torch.frombuffer(bytearray(before[0]), dtype=torch.uint8))
    if len(before) > 1:
        for generator, offset in zip(torch.cuda.default_generators, before[1:], strict=True):
            generator.set_offset(offset)


class _FoundError(Exception):
    pass


class _FirstDraw(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if hasattr(func, "_schema") and draws(func, args, kwargs or {}) and (kwargs or {}).get("generator") is None:
            raise _FoundError(f"{func.__name__} in {running_line()}")
        return func(*args, **(kwargs or {}))


def first_draw(run: Callable[[], object]) -> str | None:
    """The operation and the line of the first draw from torch's global generator, if this code draws at all.

    Another thread may have moved the generator, which belongs to the process.

    Args:
        run: What is run once more, up to its first draw.
    """
    try:
        with _FirstDraw():
            run()
    except _FoundError as seen:
        return str(seen)
    return None


def draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation draws when it is called so: not with a rate of zero, and not in evaluation mode."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    defaults = {argument.name: argument.default_value for argument in func._schema.arguments}
    names = defaults | given_by_name(func, args, kwargs)
    # There are no numbers on meta.
    if any(isinstance(value, torch.Tensor) and value.is_meta for value in names.values()):
        return False
    if names.get("device") is not None and torch.device(names["device"]).type == "meta":
        return False
    return all(bool(names[name]) for name in _RATES if name in names)


def state_of(generator: Any) -> Any:
    """The state of a generator of torch, Python or NumPy, whose text differs where the state does."""
    if isinstance(generator, torch.Generator):
        return generator.get_state().tolist()
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.getstate() if hasattr(generator, "getstate") else generator.get_state(legacy=False)


def set_state(generator: Any, state: Any) -> None:
    """Bring a generator back to a state."""
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.tensor(state, dtype=torch.uint8))
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    elif hasattr(generator, "setstate"):
        generator.setstate(state)
    else:
        generator.set_state(state)
