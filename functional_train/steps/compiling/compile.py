"""`compile`: a function of trees as one graph, its state moved underneath."""

from collections.abc import Callable
from typing import Any

from functional_train.steps.compiling._compiled import Compiled
from functional_train.steps.loop import Repeated
from functional_train.values.errors import HyperparameterError, StructureError

_BACKENDS = ("inductor", "cudagraphs", "eager")


def compile(
    fn: Callable[..., Any], *, donate: bool = False, dynamic: bool = False, backend: str = "inductor"
) -> Compiled:
    """Turn a pure function of trees, a step first of all, into one graph that runs as machine code.

    The function is traced once for each layout of its arguments (structure, static fields, shapes, strides, dtypes,
    devices) and each setting that a trace bakes in (grad mode, autocast, default dtype, threads, determinism,
    attention). Python runs in the trace only: a `print` or an `append` happens once, with tensors that have no numbers;
    return what is to be seen as a metric. Each new variant is logged to `functional_train.compile` with what changed,
    and at level DEBUG which leaves of a state could not be moved.

    What it reads without being given it is found in its closures, globals, defaults and partial arguments, in
    attributes of the objects, classes, modules and layers there, and in dicts, lists and arrays of up to 64 items.
    Tensors become arguments, so that a change in place is seen. All else is compared at each call, and another number,
    mode, function, layer or tensor traces anew. Python must not read numbers from tensors that are no arguments. Dicts
    are compared by key, not by order.

    Where a call is itself differentiated, mapped over or traced, the function runs as it is, inside of that. On CPU the
    memory of large tensors on the way is kept for the next call, until another compiled function is called.

    Args:
        fn: Called with trees of tensors. All else in them, such as strings and Python numbers, is constant: another one
            is another variant.
        donate: Whether to move the first argument, a `TrainState` or another struct, into the result: the new state is
            written over the old one's buffers, and the old one is consumed, so that touching it raises an
            `OwnershipError` which names the call. Leaves that anything else can see (another name, a view, a NumPy
            array, a graph) are copied instead. Without it the same graph runs on copies, to the same bits. When a call
            raises while the code runs, the state is lost, and says so: keep `ft.tree.copy(state)` where that can be.
        dynamic: Whether one variant serves all lengths of the first dimension (the size of a batch) from 2 on, of all
            arguments but a state. Where the function does something else for some lengths, these have their own.
        backend: "inductor"; "cudagraphs", which on CUDA launches all kernels of a call at once and pays off with
            `donate`; or "eager" for the same checks without generated code.

    Returns:
        A function like `fn`, with `cache_info()`, `reports()` and `donates`. The new state is expected alone or first
        in a tuple.

    Raises:
        HyperparameterError: the backend is unknown.
        CompileError: when called: the function draws from torch's global generator, writes to an argument, depends in
            its control flow on numbers in tensors, or reads a tensor that requires grad; the message has the line. Or
            there is no C++ compiler, which Inductor needs on CPU.
        OwnershipError: when called: the state was consumed or written to.
        StructureError: when called: with `donate`, the first argument is no struct, or not returned.

    Example:
        >>> import functional_train as ft, torch
        >>> loss_fn = lambda params, batch: (params["w"] - batch).square().sum()
        >>> step = ft.make_step(ft.grad_and_value(loss_fn), optimizer := ft.sgd(0.25))
        >>> fast_step = ft.compile(step, donate=True)
        >>> first = ft.init_state({"w": torch.zeros(1)}, optimizer)
        >>> state, metrics = fast_step(first, torch.ones(1))
        >>> state.params, metrics
        ({'w': tensor([0.5000])}, {'loss': tensor(1.)})
        >>> first.params
        Traceback (most recent call last):
        ...
        functional_train.values.errors.OwnershipError: this state was consumed by compile(step, donate=True), called ...
    """
    if backend not in _BACKENDS:
        raise HyperparameterError(f"backend must be one of {', '.join(map(repr, _BACKENDS))}, got {backend!r}.")
    if not callable(fn):
        raise StructureError(f"compile takes a function, got a {type(fn).__name__}.")
    if dynamic and isinstance(fn, Repeated):
        raise HyperparameterError(
            f"dynamic=True is for lengths of the first dimension, where {fn!r} has its steps. Leave dynamic out."
        )
    return Compiled(fn, donate, dynamic, backend)
