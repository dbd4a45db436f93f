"""Optax, in float64."""

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import torch
from optax._src import factorized, transform
from optax.contrib import _galore as galore
from optax.contrib import _madgrad as madgrad
from optax.contrib import _schedule_free as schedule_free

from tests.oracles._writing import Points, Spec, write
from tests.oracles.problem import GRADIENTS, HESSIANS, LOSSES, NUM_STEPS, Tree, start

jax.config.update("jax_enable_x64", True)

SPOILED_STEPS = (2, 7, 8, 9)


def make() -> None:
    """Write `figures/optax.json`."""
    # Some modules cast to float32, or count in int32, whose root and quotient are float32 even under x64.
    for module in (factorized, galore, madgrad, schedule_free, transform):
        module.jnp = types.SimpleNamespace(**{**vars(jnp), "float32": jnp.float64, "int32": jnp.int64})
    write("optax", run, beside=("jax",))


def run(spec: Spec, problem: str) -> Iterator[Points]:
    """Yield the parameters after each step."""
    return _DRIVERS[spec.driver](spec, problem)


@functools.cache
def _made(call: str) -> tuple[Any, Callable[..., Any]]:
    """The transformation and its compiled step, shared by both problems."""
    given_hessian = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), lambda grads, state, params=None, *, hessian, **extra: (hessian, state)
    )
    names = {**vars(optax), "float64": jnp.float64, "given_hessian": given_hessian}
    tx = optax.with_extra_args_support(eval(call, names))

    @jax.jit
    def step(grads: Any, state: Any, params: Any, **extra: Any) -> Any:
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return tx, step


def _plain(spec: Spec, problem: str) -> Iterator[Points]:
    for params, _ in _walk(spec, problem):
        yield {"params": _to_torch(params)}


def _schedule_free(spec: Spec, problem: str) -> Iterator[Points]:
    for params, state in _walk(spec, problem):
        at_eval = optax.contrib.schedule_free_eval_params(state, params)
        yield {"params": _to_torch(params), "eval_params": _to_torch(at_eval)}


def _walk(spec: Spec, problem: str) -> Iterator[tuple[Any, Any]]:
    tx, step_fn = _made(spec.call)
    params = _to_jax(start(spec.leaves))
    state = tx.init(params)
    for step in range(1, NUM_STEPS + 1):
        at = _to_torch(params)
        grads = GRADIENTS[problem](step, at)
        if spec.driver == "spoiled" and step in SPOILED_STEPS:
            grads["vector"][0] = torch.nan
        value, hessian = LOSSES[problem](step, at), HESSIANS[problem](step, at)
        extra = {"value": jnp.asarray(value), "hessian": _to_jax(hessian)}
        params, state = step_fn(_to_jax(grads), state, params, **extra)
        yield params, state


def _lookahead(spec: Spec, problem: str) -> Iterator[Points]:
    tx, step_fn = _made(spec.call)
    params = optax.LookaheadParams.init_synced(_to_jax(start(spec.leaves)))
    state = tx.init(params)
    for step in range(1, NUM_STEPS + 1):
        grads = GRADIENTS[problem](step, _to_torch(params.fast))
        params, state = step_fn(_to_jax(grads), state, params)
        yield {"params": _to_torch(params.fast), "eval_params": _to_torch(params.slow)}


def _sam(spec: Spec, problem: str) -> Iterator[Points]:
    tx, _ = _made(spec.call)
    params = _to_jax(start(spec.leaves))
    state = tx.init(params)
    for step in range(1, NUM_STEPS + 1):

        def grad_fn(at: Any, _: int, step: int = step) -> Any:
            return _to_jax(GRADIENTS[problem](step, _to_torch(at)))

        updates, state = tx.update(grad_fn(params, 0), state, params, grad_fn=grad_fn)
        params = optax.apply_updates(params, updates)
        yield {"params": _to_torch(params)}


def _projection(spec: Spec, problem: str) -> Iterator[Points]:
    names = {**vars(optax), "start": _to_jax(start(spec.leaves)), "full_like": optax.tree.full_like}
    project = jax.jit(lambda tree: eval(spec.call, {**names, "tree": tree}))
    for step in range(1, NUM_STEPS + 1):
        yield {"params": _to_torch(project(_to_jax(GRADIENTS[problem](step, start(spec.leaves)))))}


_DRIVERS = {
    "plain": _plain,
    "spoiled": _plain,
    "schedule_free": _schedule_free,
    "lookahead": _lookahead,
    "sam": _sam,
    "projection": _projection,
}


def _to_jax(tree: Tree) -> dict[str, Any]:
    return {leaf: jnp.asarray(value.numpy()) for leaf, value in tree.items()}


def _to_torch(tree: dict[str, Any]) -> Tree:
    return {leaf: torch.tensor(np.asarray(value)) for leaf, value in tree.items()}
