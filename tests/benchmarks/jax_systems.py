"""JAX and Optax: the same models, jitted whole, the old state donated."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.systems import HYPERPARAMETERS, Advance
from tests.benchmarks.workloads import Batch, ResNet, Transformer


def jitted(module: nn.Module) -> Advance:
    """Optax's AdamW in one jitted step."""
    # XLA has no setting for the number of its threads: it takes as many as there are cores that it may use.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-torch.get_num_threads() :])
    import jax
    import jax.numpy as jnp
    import optax

    params = {name: jnp.asarray(leaf.detach().numpy().copy()) for name, leaf in module.named_parameters()}
    forward = _forward(module)
    optimizer = optax.adamw(HYPERPARAMETERS["lr"], weight_decay=HYPERPARAMETERS["weight_decay"])
    opt_state = optimizer.init(params)

    def loss_fn(params: Any, inputs: Any, targets: Any) -> Any:
        outputs = forward(params, inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            outputs.reshape(-1, outputs.shape[-1]), targets.ravel()
        )
        return losses.mean()

    def step(params: Any, opt_state: Any, inputs: Any, targets: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_fn)(params, inputs, targets)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    fast = jax.jit(step, donate_argnums=(0, 1))
    converted: dict[int, Any] = {}

    def advance(batch: Batch) -> Tensor:
        nonlocal params, opt_state
        if id(batch) not in converted:
            converted[id(batch)] = tuple([jnp.asarray(part.numpy()) for part in batch])
        params, opt_state, loss = fast(params, opt_state, *converted[id(batch)])
        return loss.block_until_ready()

    return advance


def _forward(module: nn.Module) -> Callable[[Any, Any], Any]:
    if isinstance(module, Transformer):
        heads: Any = module.blocks[0]
        return _transformer(len(module.blocks), heads.heads)
    return _resnet if isinstance(module, ResNet) else _mlp(len(module))  # pyright: ignore[reportArgumentType]


def _linear(params: Any, name: str, x: Any) -> Any:
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def _mlp(layers: int) -> Callable[[Any, Any], Any]:
    import jax

    def forward(params: Any, x: Any) -> Any:
        for place in range(0, layers - 1, 2):
            x = jax.nn.relu(_linear(params, str(place), x))
        return _linear(params, str(layers - 1), x)

    return forward


def _transformer(layers: int, heads: int) -> Callable[[Any, Any], Any]:
    import jax
    import jax.numpy as jnp

    def norm(params: Any, name: str, x: Any) -> Any:
        centered = x - x.mean(-1, keepdims=True)
        scaled = centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-5)
        return scaled * params[f"{name}.weight"] + params[f"{name}.bias"]

    def forward(params: Any, tokens: Any) -> Any:
        batch, length = tokens.shape
        x = params["embed.weight"][tokens] + params["place.weight"][:length]
        width = x.shape[-1]
        causal = jnp.tril(jnp.ones((length, length), bool))
        for layer in range(layers):
            at = f"blocks.{layer}"
            parts = _linear(params, f"{at}.qkv", norm(params, f"{at}.norm1", x))
            q, k, v = parts.reshape(batch, length, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
            scores = q @ k.swapaxes(-1, -2) / (width // heads) ** 0.5
            mixed = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1) @ v
            x = x + _linear(params, f"{at}.out", mixed.swapaxes(1, 2).reshape(batch, length, width))
            up = jax.nn.gelu(_linear(params, f"{at}.up", norm(params, f"{at}.norm2", x)), approximate=False)
            x = x + _linear(params, f"{at}.down", up)
        return _linear(params, "head", norm(params, "norm", x))

    return forward


def _resnet(params: Any, x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    def conv(name: str, x: Any, stride: int = 1) -> Any:
        weight = params[f"{name}.weight"]
        pad = weight.shape[-1] // 2
        return jax.lax.conv_general_dilated(
            x, weight, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NCHW", "OIHW", "NCHW")
        )

    # The running averages of a BatchNorm do not influence training; they are left out here, in JAX's favour.
    def norm(name: str, x: Any) -> Any:
        centered = x - x.mean((0, 2, 3), keepdims=True)
        scaled = centered * jax.lax.rsqrt(jnp.square(centered).mean((0, 2, 3), keepdims=True) + 1e-5)
        return scaled * params[f"{name}.weight"][:, None, None] + params[f"{name}.bias"][:, None, None]

    x = jax.nn.relu(norm("norm", conv("stem", x)))
    for block in range(3):
        at, stride = f"blocks.{block}", 1 if block == 0 else 2
        y = jax.nn.relu(norm(f"{at}.norm1", conv(f"{at}.conv1", x, stride)))
        y = norm(f"{at}.norm2", conv(f"{at}.conv2", y))
        x = jax.nn.relu(y + (x if block == 0 else conv(f"{at}.skip", x, stride)))
    return _linear(params, "head", x.mean((2, 3)))
