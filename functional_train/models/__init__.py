"""From an `nn.Module` to a pure function of its parameters and buffers, and back."""

from functional_train.models.functional import Functional, functionalize, merge

__all__ = ["Functional", "functionalize", "merge"]
