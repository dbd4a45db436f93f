"""What this library raises: one base class, one subclass for each kind of mistake.

FunctionalTrainError
+-- StructureError         trees, names or shapes that do not fit together
+-- PathError              a path that names no leaf, or more than one
+-- HyperparameterError    a number outside its range
+-- LossError              a loss that cannot be differentiated
+-- BatchesError           batches that ran out or never came
+-- ImmutableError         an attempt to write to a value
+-- OwnershipError         a leaf of a state changed behind its owner's back
+-- PurityError            hidden input, hidden output, or hidden randomness
+-- CompileError           a function that cannot be one graph
+-- NonFiniteError         a loss that became infinite or not a number
+-- CheckpointError        a file that is not what was saved
"""

from typing import Any


class FunctionalTrainError(Exception):
    """Base of everything that functional_train raises on purpose.

    Example:
        >>> import functional_train as ft
        >>> issubclass(ft.StructureError, ft.FunctionalTrainError)
        True
    """


class StructureError(FunctionalTrainError, ValueError):
    """Trees, names, shapes or dtypes that do not fit together.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.add({"a": torch.ones(1)}, {"b": torch.ones(1)})
        Traceback (most recent call last):
        ...
        functional_train.values.errors.StructureError: ...
    """


class PathError(FunctionalTrainError, LookupError):
    """A path that names no leaf of a tree, or more than one.

    Example:
        >>> import functional_train as ft
        >>> issubclass(ft.PathError, LookupError)
        True
    """


class HyperparameterError(FunctionalTrainError, ValueError):
    """A hyperparameter outside its range.

    Example:
        >>> import functional_train as ft
        >>> ft.adam(lr=-1.0)
        Traceback (most recent call last):
        ...
        functional_train.values.errors.HyperparameterError: ...
    """


class LossError(FunctionalTrainError, ValueError):
    """A loss that cannot be differentiated: not a scalar, complex, or independent of the parameters.

    Example:
        >>> import functional_train as ft
        >>> issubclass(ft.LossError, ValueError)
        True
    """


class BatchesError(FunctionalTrainError, ValueError):
    """An iterable of batches that is empty.

    Example:
        >>> import functional_train as ft
        >>> issubclass(ft.BatchesError, ValueError)
        True
    """


class ImmutableError(FunctionalTrainError, TypeError):
    """An attempt to write to an immutable value.

    Example:
        >>> import functional_train as ft
        >>> ft.Params({"weight": None})["weight"] = 1.0
        Traceback (most recent call last):
        ...
        functional_train.values.errors.ImmutableError: ...
    """


class OwnershipError(FunctionalTrainError, RuntimeError):
    """A leaf of a state that was written to after the state was made.

    Example:
        >>> import functional_train as ft
        >>> issubclass(ft.OwnershipError, RuntimeError)
        True
    """


class PurityError(FunctionalTrainError, RuntimeError):
    """A function with a hidden input, a hidden output, or hidden randomness.

    Attributes:
        findings: From `check_pure`, a tuple with a `Finding` for each impurity; otherwise empty.

    Example:
        >>> import functional_train as ft
        >>> issubclass(ft.PurityError, RuntimeError)
        True
    """

    def __init__(self, message: str, findings: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.findings)


class CompileError(FunctionalTrainError, RuntimeError):
    """A function that cannot be compiled into one graph.

    Example:
        >>> import functional_train as ft
        >>> issubclass(ft.CompileError, RuntimeError)
        True
    """


class NonFiniteError(FunctionalTrainError, ArithmeticError):
    """A loss or a gradient became infinite or not a number while training, or steps were skipped for it.

    Nothing is lost: the error carries what training had reached.

    Attributes:
        state: Where to go on from. Of `fit` the last whole state, after the step whose loss is reported or a later one;
            of a step that skips the state after it, and of one that goes back the state that it went back to.
        history: Everything recorded so far; None when the error comes from a step that runs outside of `fit`.

    Example:
        >>> import functional_train as ft
        >>> error = ft.NonFiniteError("loss is nan at step 3", state=None, history={})
        >>> error.history
        {}
    """

    def __init__(self, message: str, *, state: Any = None, history: Any = None) -> None:
        super().__init__(message)
        self.state = state
        self.history = history


class CheckpointError(FunctionalTrainError, ValueError):
    """A file that is not what `save` wrote: cut short, decayed, forged, or of another kind.

    Example:
        >>> import functional_train as ft
        >>> issubclass(ft.CheckpointError, ValueError)
        True
    """
