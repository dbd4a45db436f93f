"""Counts that a run is given."""

from functional_train.values.errors import HyperparameterError


def check_count(name: str, value: object, least: int, hint: str = "") -> None:
    """Refuse what is no int of at least `least`; the hint ends the message."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise HyperparameterError(f"{name} must be an int >= {least}, got {value!r}. {hint}".rstrip())
