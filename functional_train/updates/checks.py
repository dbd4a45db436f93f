"""What numbers a factory takes: checked where it is called, and never by looking at a tensor."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from functional_train.values.errors import HyperparameterError
from functional_train.values.types import Hyperparameter

Number = float | Tensor

_ELSEWHERE = " Parameters go to optimizer.init(params), not to the factory."


def check_non_negative(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a negative, infinite or nan number; a tensor's value is never looked at."""
    return _checked(name, value, lambda number: 0.0 <= number < float("inf"), "must be a finite number >= 0", hint)


def check_positive(name: str, value: Hyperparameter, hint: str = "", *, finite: bool = True) -> Number:
    """Refuse a number that is not above zero, is nan, or infinite where it must not be; a tensor is never looked at."""
    if finite:
        return check_above(name, value, 0.0, hint)
    return _checked(name, value, lambda number: number > 0.0, "must be a number > 0", hint)


def check_above(name: str, value: Hyperparameter, bound: float, hint: str = "") -> Number:
    """Refuse a number that is not above a bound, or not finite; a tensor's value is never looked at."""
    rule = f"must be a finite number > {bound:g}"
    return _checked(name, value, lambda number: bound < number < float("inf"), rule, hint)


def check_at_least(name: str, value: Hyperparameter, least: float, hint: str = "") -> Number:
    """Refuse a number below the least, infinite or nan; a tensor's value is never looked at."""
    return _checked(
        name, value, lambda number: least <= number < float("inf"), f"must be a finite number >= {least:g}", hint
    )


def check_non_positive(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a positive, infinite or nan number; a tensor's value is never looked at."""
    return _checked(name, value, lambda number: float("-inf") < number <= 0.0, "must be a finite number <= 0", hint)


def check_finite(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse an infinite or nan number; a tensor's value is never looked at."""
    return _checked(name, value, lambda number: abs(number) < float("inf"), "must be a finite number", hint)


def check_fraction(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a number outside [0, 1); a tensor's value is never looked at."""
    return _checked(name, value, lambda number: 0.0 <= number < 1.0, "must be in [0, 1)", hint)


def check_share(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a number outside [0, 1]; a tensor's value is never looked at."""
    return _checked(name, value, lambda number: 0.0 <= number <= 1.0, "must be in [0, 1]", hint)


def check_interior(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a number outside (0, 1); a tensor's value is never looked at."""
    return _checked(name, value, lambda number: 0.0 < number < 1.0, "must be in (0, 1)", hint)


def check_betas(betas: tuple[Hyperparameter, Hyperparameter]) -> tuple[Number, Number]:
    """Refuse betas that are not a pair, or a beta outside [0, 1)."""
    check_pair(betas)
    return (
        check_fraction("betas[0]", betas[0], "With 1.0 the first moment never moves; 0.9 is usual."),
        check_fraction("betas[1]", betas[1], "With 1.0 the second moment never moves; 0.999 is usual."),
    )


def check_three_betas(
    betas: tuple[Hyperparameter, Hyperparameter, Hyperparameter], usual: tuple[float, float, float]
) -> tuple[Number, Number, Number]:
    """Refuse betas that are not three, or a beta outside [0, 1)."""
    if not isinstance(betas, tuple | list) or len(betas) != 3:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(f"betas must be three numbers, got {betas!r}. {usual} is usual.")
    first, second, third = (
        check_fraction(f"betas[{place}]", beta, f"With 1.0 a moment never moves; {usual[place]} is usual.")
        for place, beta in enumerate(betas)
    )
    return first, second, third


def check_pair(
    pair: tuple[Hyperparameter, Hyperparameter], name: str = "betas", usual: tuple[float, float] = (0.9, 0.999)
) -> tuple[Hyperparameter, Hyperparameter]:
    """Refuse what is not a pair; each of its numbers is looked at where it is used."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
        # A number is perhaps the lr of somebody who passed parameters first, as torch.optim takes them.
        hint = "" if isinstance(pair, tuple) else _ELSEWHERE
        raise HyperparameterError(f"{name} must be a pair, got {_shown(pair)}. {usual} is usual.{hint}")
    return pair


def check_whole(name: str, value: int, least: int, hint: str = "") -> int:
    """Refuse what is not an int, or below the least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(f"{name} must be an int >= {least}, got {value!r}. {hint}".rstrip())
    return value


def check_num_updates(name: str, value: int, least: int = 0) -> int:
    """Refuse what is no count of updates."""
    return check_whole(name, value, least, "It counts updates.")


def check_count(name: str, value: Hyperparameter, least: int, hint: str = "") -> Number:
    """Refuse anything but a whole number that is not below `least`; a tensor's value is never looked at."""
    if not isinstance(value, Tensor | int):
        raise HyperparameterError(f"{name} must be an int >= {least}, got {value!r}. {hint}".rstrip())
    return _checked(name, value, lambda number: number >= least, f"must be an int >= {least}", hint)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is none of the choices."""
    if value not in choices:
        raise HyperparameterError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def is_zero(value: Hyperparameter) -> bool:
    """Whether a hyperparameter is the number zero, so that its term can be left out; a tensor never is."""
    return not isinstance(value, Tensor) and value == 0


def _checked(name: str, value: Any, accept: Callable[[float], bool], rule: str, hint: str) -> Number:
    if isinstance(value, Tensor):
        if value.ndim != 0:
            raise HyperparameterError(
                f"{name} has shape {tuple(value.shape)}; a tensor hyperparameter is 0-d. For one value a member use "
                "vmap."
            )
    elif isinstance(value, bool) or not isinstance(value, int | float) or not accept(value):
        hint = _ELSEWHERE if _may_be_params(value) else f" {hint}" if hint else ""
        raise HyperparameterError(f"{name} {rule}, got {_shown(value)}.{hint}")
    return value


def _may_be_params(value: Any) -> bool:
    """Whether somebody passed what torch.optim takes first: a mapping, a list or a generator of parameters."""
    return isinstance(value, Mapping | Iterator | list)


def _shown(value: Any) -> str:
    return f"a {type(value).__name__}" if _may_be_params(value) else repr(value)
