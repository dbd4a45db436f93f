"""A module's forward as a pure function of its parameters and buffers."""

import weakref
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from functional_train.models._checks import RESERVED, check_keywords, check_module, leaves_of, read_leaves
from functional_train.models._dismantle import copy_module, make_skeleton, named_tensors
from functional_train.models._keyed import drawing_from, may_draw
from functional_train.models._mapped import mappable, writes_norms
from functional_train.models._skeleton import Skeleton, instantiate
from functional_train.values.errors import PurityError, StructureError
from functional_train.values.params import Params
from functional_train.values.random._checks import check_key

__all__ = ["Functional", "functionalize", "merge"]

_NO_BUFFERS = Params({})


class Functional(NamedTuple):
    """A module as a function and the values it starts from.

    Example:
        >>> import functional_train as ft, torch
        >>> functional = ft.functionalize(torch.nn.Linear(3, 2))
        >>> functional._fields
        ('apply', 'params', 'buffers')
    """

    apply: Callable[..., Any]  # (params, *args, buffers=None, key=None, train=True, **kwargs) -> output
    params: Params  # named_parameters, ties once
    buffers: Params  # named_buffers, non-persistent ones included


def functionalize(module: nn.Module, *, method: str = "forward", forward_kwargs: Collection[str] = ()) -> Functional:
    """Split a module into a pure function and the values it starts from.

    `apply(params, *args, buffers=None, key=None, train=True, **kwargs)` calls the module with the given tensors. It
    returns the output, or `(output, new_buffers)` when buffers are passed. Nothing is ever written to the module, to
    params or to buffers, and nothing is remembered from one call to the next: each call builds the submodules anew.
    So calls may run in threads, inside each other, and again when activation checkpointing recomputes.

    Randomness comes from `key`: dropout of all kinds, attention's and recurrent layers' among it, noise and samples
    take their numbers from `ft.random.fold_in(key, n)`, the n-th draw each. The same key gives the same numbers, also
    where activation checkpointing computes them again; members of an ensemble have keys of their own.

    Args:
        module: Any `nn.Module`. It is neither changed nor kept; `apply` holds a copy without its weights.
        method: Name of the method that `apply` calls. Hooks of the module itself run for `"forward"` only.
        forward_kwargs: Which of `"buffers"`, `"key"`, `"train"` are keywords of the forward itself. `apply` passes
            these on and no longer takes them for itself.

    Returns:
        `apply`, and copies of the parameters (ties once) and buffers (non-persistent ones included). `train` of `apply`
        is True, False, or a predicate on module paths (`""` is the module itself; a module with several paths is asked
        for its first). It alone decides: `module.train()` and `module.eval()` play no part.

    Raises:
        StructureError: the module is lazy, scripted, compiled or wrapped for many machines, cannot be copied, or its
            forward has a keyword that clashes. `apply` raises it when names, shapes or kinds of dtype do not fit, and
            when buffers are needed.
        PurityError: the forward draws random numbers and `apply` got no key, or it draws what no key can stand for, or
            it wrote to hidden state.

    Differs: `torch.func.functional_call` accepts misspelt names and wrong shapes, and writes to the buffers it is
        given. `nn.Embedding(max_norm=...)` renormalizes its rows within the call, not in params: normalize them in the
        update. Tensors and modules in plain attributes are constants, a view of a parameter among them, and attributes
        that a forward sets are forgotten; what it writes inside a foreign object that an attribute holds is not.

    Example:
        >>> import functional_train as ft, torch
        >>> apply, params, buffers = ft.functionalize(torch.nn.BatchNorm1d(2))
        >>> output, new_buffers = apply(params, torch.ones(4, 2), buffers=buffers)
        >>> buffers["num_batches_tracked"], new_buffers["num_batches_tracked"]
        (tensor(0), tensor(1))
        >>> output = apply(params, torch.ones(4, 2), buffers=buffers, train=False)[0]
        >>> apply, params, _ = ft.functionalize(torch.nn.Dropout(0.5))
        >>> apply(params, torch.ones(4), key=ft.random.key(0))
        tensor([0., 0., 2., 2.])
    """
    check_module(module, "functionalize")
    parameters, buffers = (dict(named_tensors(module, kind)) for kind in ("_parameters", "_buffers"))
    check_keywords(module, method, forward_kwargs, has_buffers=bool(buffers))
    call = _make_call(make_skeleton(module), method, draws=may_draw(module), norms=writes_norms(module))

    def apply(
        params: Mapping[str, Any],
        /,
        *args: Any,
        buffers: Mapping[str, Any] | None = None,
        key: Any = None,
        train: bool | Callable[[str], bool] = True,
        **kwargs: Any,
    ) -> Any:
        return call(params, args, kwargs, buffers, key, train)

    def apply_passing_on(params: Mapping[str, Any], /, *args: Any, **kwargs: Any) -> Any:
        own = {name: kwargs.pop(name) for name in RESERVED if name in kwargs and name not in forward_kwargs}
        return call(params, args, kwargs, **own)

    return Functional(
        apply_passing_on if forward_kwargs else apply,
        Params({name: _copied(tensor) for name, tensor in parameters.items()}),
        Params({name: _copied(tensor) for name, tensor in buffers.items()}),
    )


def merge(module: nn.Module, params: Mapping[str, Any], buffers: Mapping[str, Any] | None = None) -> nn.Module:
    """Make a module like `module` that holds copies of the given tensors.

    Args:
        module: Where the code comes from. It is not changed.
        params: A tensor for each of its parameters.
        buffers: A tensor for each of its buffers. If None, the module's own are copied.

    Returns:
        A new module; ties, `requires_grad` and training flags are those of `module`.

    Raises:
        StructureError: names, shapes or kinds of dtype do not fit, or the module cannot be copied.

    Example:
        >>> import functional_train as ft, torch
        >>> module = torch.nn.Linear(2, 1)
        >>> apply, params, _ = ft.functionalize(module)
        >>> trained = ft.merge(module, params | {"bias": torch.ones(1)})
        >>> trained.bias
        Parameter containing:
        tensor([1.], requires_grad=True)
    """
    check_module(module, "merge")
    owner = type(module).__name__
    own_parameters, own_buffers = (dict(named_tensors(module, kind)) for kind in ("_parameters", "_buffers"))
    new_parameters = read_leaves("params", params, leaves_of(own_parameters), owner)
    new_buffers = read_leaves("buffers", own_buffers if buffers is None else buffers, leaves_of(own_buffers), owner)
    memo: dict[int, Any] = {}
    for old, new in zip(own_buffers.values(), new_buffers, strict=True):
        memo[id(old)] = _copied(new)
    for old, new in zip(own_parameters.values(), new_parameters, strict=True):
        memo[id(old)] = nn.Parameter(_copied(new), requires_grad=old.requires_grad)
    return copy_module(module, memo)


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _make_call(skeleton: Skeleton, method: str, *, draws: bool, norms: bool) -> Callable[..., Any]:
    owner, leaves, renormalized = skeleton.owner, skeleton.parameters, skeleton.renormalized

    def call(
        params: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        buffers: Mapping[str, Any] | None = None,
        key: Any = None,
        train: bool | Callable[[str], bool] = True,
    ) -> Any:
        if key is not None:
            check_key(key)
        tensors = read_leaves("params", params, leaves, owner)
        for index in renormalized:
            tensors[index] = tensors[index].clone()
        passed_buffers = _read_buffers(skeleton, buffers)
        # Cloned here, inside whatever is being differentiated: there BatchNorm may not write to tensors from outside.
        for buffer in passed_buffers:
            tensors.append(buffer.clone())
        tensors.append(None)
        flags = None if train is True else _training_flags(skeleton, train)
        if draws or norms:
            run = partial(_run, skeleton, method, tensors, flags, args, kwargs)
            run = mappable(run) if norms else run
            output, new_buffers, sites = drawing_from(key, run, owner)
        else:
            output, new_buffers, sites = _run(skeleton, method, tensors, flags, args, kwargs)
        if buffers is None:
            return output
        _release_buffers(sites, passed_buffers)
        return output, new_buffers

    return call


def _run(
    skeleton: Skeleton,
    method: str,
    tensors: list[Any],
    flags: list[bool] | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, Params, list[tuple[Any, str, int]]]:
    modules = instantiate(skeleton, tensors, flags)
    root = modules[-1]
    output = (root if method == "forward" else getattr(root, method))(*args, **kwargs)
    if skeleton.constants:
        skeleton.check_constants()
    if not skeleton.buffers.names:
        return output, _NO_BUFFERS, []
    # Weak references tell the caller of this function, whose return frees the modules, which of them are still held.
    sites = [(weakref.ref(modules[position]), name, index) for position, name, index in skeleton.buffer_sites]
    return output, _collect_buffers(skeleton, modules), sites


def _read_buffers(skeleton: Skeleton, buffers: Mapping[str, Any] | None) -> list[Any]:
    if buffers is not None:
        return read_leaves("buffers", buffers, skeleton.buffers, skeleton.owner)
    names = skeleton.buffers.names
    if names:
        shown = ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
        raise StructureError(
            f"{skeleton.owner} has {len(names)} buffers ({shown}), and apply got none. "
            "Pass them: `output, new_buffers = apply(params, ..., buffers=buffers)`."
        )
    return []


def _training_flags(skeleton: Skeleton, train: bool | Callable[[str], bool]) -> list[bool]:
    if isinstance(train, bool):
        return [train] * len(skeleton.plans)
    if not callable(train):
        raise StructureError(f"train must be True, False or a predicate on module paths, got {train!r}.")
    return [bool(train(plan.path)) for plan in skeleton.plans]


def _collect_buffers(skeleton: Skeleton, modules: list[nn.Module]) -> Params:
    found: dict[int, Any] = {}
    for position, name, index in skeleton.buffer_sites:
        found.setdefault(index, modules[position]._buffers.get(name))
    for index, name in enumerate(skeleton.buffers.names):
        if found[index] is None:
            raise PurityError(f"the forward of {skeleton.owner} removed its buffer {name!r}. A buffer must stay one.")
    return Params({name: found[index] for index, name in enumerate(skeleton.buffers.names)})


def _release_buffers(sites: list[tuple[Any, str, int]], passed_buffers: list[Any]) -> None:
    # A module that outlives its call is held by activation checkpointing, which will run it again: from the buffers
    # of before the call, and without writing to those that the call has returned.
    again: dict[int, Any] = {}
    for reference, name, index in sites:
        module = reference()
        if module is not None:
            if index not in again:
                again[index] = passed_buffers[index].clone()
            module._buffers[name] = again[index]
