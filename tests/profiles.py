"""How many examples a law gets under the profile that runs."""

from hypothesis import settings

_DEFAULT = 100


def examples(count: int) -> int:
    """`count` by day, where Hypothesis would take a hundred, and in proportion under another profile."""
    return max(1, count * settings().max_examples // _DEFAULT)
