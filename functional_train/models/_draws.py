"""torch's functions that draw, from keys: the same arguments and the same laws, other numbers.

Each takes `draw`, which makes the next key, and then what torch's function takes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from functional_train.values import random
from functional_train.values.errors import PurityError
from functional_train.values.random._discrete import happens, kept

NextKey = Callable[[], Tensor]
Draw = Callable[..., Any]

# SELU's bound below, -scale * alpha, which alpha dropout puts in place of what it drops.
_SELU_FLOOR = 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717


def _dropout(draw: NextKey, input: Tensor, p: float, train: bool) -> Tensor:
    return input * _mask(draw, input, input.shape, p) if train and p > 0 else input


def _feature_dropout(draw: NextKey, input: Tensor, p: float, train: bool) -> Tensor:
    return input * _mask(draw, input, _features(input), p) if train and p > 0 else input


def _alpha_dropout(draw: NextKey, input: Tensor, p: float, train: bool) -> Tensor:
    return _to_floor(draw, input, input.shape, p) if train and p > 0 else input


def _feature_alpha_dropout(draw: NextKey, input: Tensor, p: float, train: bool) -> Tensor:
    return _to_floor(draw, input, _features(input), p) if train and p > 0 else input


def _native_dropout(draw: NextKey, input: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    if train is False or p == 0:
        return input, torch.ones_like(input, dtype=torch.bool)
    mask = happens(draw(), tuple(input.shape), 1.0 - p).to(input.device)
    return input * mask * (0.0 if p == 1 else 1 / (1 - p)), mask


def _mask(draw: NextKey, input: Tensor, shape: Sequence[int], p: float) -> Tensor:
    return kept(draw(), tuple(shape), p, input.dtype).to(input.device)


def _to_floor(draw: NextKey, input: Tensor, shape: Sequence[int], p: float) -> Tensor:
    if p == 1:
        return input * 0
    keep = happens(draw(), tuple(shape), 1.0 - p).to(input.device, input.dtype)
    scale = 1 / math.sqrt((_SELU_FLOOR**2 * p + 1) * (1 - p))
    return input * (keep * scale) + ((keep - 1) * (_SELU_FLOOR * scale) + _SELU_FLOOR * scale * p)


def _features(input: Tensor) -> list[int]:
    return [*input.shape[:2], *[1] * (input.dim() - 2)]


def _rrelu(
    draw: NextKey,
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Tensor:
    _check_no_generator(generator)
    if not training:
        return torch.nn.functional.leaky_relu(input, (lower + upper) / 2)
    slopes = _uniform(draw, input.shape, input, lower, upper)
    return torch.where(input >= 0, input, input * slopes)


def _attention(
    draw: NextKey,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout_p == 0:
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        key, value = (each.repeat_interleave(query.size(-3) // each.size(-3), -3) for each in (key, value))
    # Half of the scale on each side, as torch does, so that 16 bits do not overflow.
    root = math.sqrt(1 / math.sqrt(query.size(-1)) if scale is None else scale)
    scores = (query * root) @ (key * root).transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        masked = attn_mask.dtype is torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if masked else scores + attn_mask
    weights = torch._safe_softmax(scores, -1)
    return (weights * _mask(draw, weights, weights.shape, dropout_p)) @ value


def _recurrent(kind: str) -> Draw:
    """A recurrent function of several layers, with dropout between them."""
    function, num_states = getattr(torch, kind), 2 if kind == "lstm" else 1

    def run(draw: NextKey, input: Tensor, *rest: Any) -> Any:
        # (batch_sizes, hx, params, has_biases, ...) of packed sequences, and (hx, params, has_biases, ...).
        packed = isinstance(rest[2], list | tuple)
        sizes, (hx, params, biases, layers, p, train, both, *first) = (rest[:1], rest[1:]) if packed else ((), rest)
        if not train or p == 0 or layers == 1:
            return function(input, *rest)
        states = hx if num_states == 2 else (hx,)
        directions, count = 2 if both else 1, len(params) // layers
        found: list[tuple[Tensor, ...]] = []
        for layer in range(layers):
            if layer:
                input = _dropout(draw, input, p, True)
            rows = slice(layer * directions, (layer + 1) * directions)
            now = tuple([state[rows] for state in states])
            own = params[layer * count : (layer + 1) * count]
            before = now if num_states == 2 else now[0]
            input, *last = function(input, *sizes, before, own, biases, 1, 0.0, train, both, *first)
            found.append(tuple(last))
        return (input, *[torch.cat(each) for each in zip(*found, strict=True)])

    return run


def _check_no_generator(generator: Any) -> None:
    if generator is not None:
        raise PurityError(
            "a torch.Generator was passed to a function that draws: hidden state that a key cannot stand for. Leave "
            "generator= out; the numbers then come from key=."
        )


def _check_no_out(out: Any) -> None:
    if out is not None:
        raise PurityError("out= was passed to a function that draws from a key. Leave it out; the result is new.")


def _uniform(draw: NextKey, shape: Sequence[int], like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return random.uniform(draw(), tuple(shape), low=low, high=high, dtype=like.dtype).to(like.device)


def _factory(make: Callable[..., Tensor]) -> Draw:
    """A function like `torch.rand`: `(*size or size, dtype=, device=, ...)`; `make` takes (key, shape, dtype)."""

    def factory(draw: NextKey, *size: Any, **options: Any) -> Tensor:
        shape = options.pop("size", None) or (size[0] if size and not isinstance(size[0], int) else size)
        return _finished(make(draw(), tuple(shape), options.get("dtype")), options)

    return factory


def _alike(make: Callable[..., Tensor]) -> Draw:
    """A function like `torch.rand_like`."""

    def factory(draw: NextKey, input: Tensor, *bounds: Any, **options: Any) -> Tensor:
        dtype = options.get("dtype") or input.dtype
        bounds = (*bounds, *[options.pop(name) for name in ("low", "high") if name in options])
        made = make(draw(), tuple(input.shape), dtype, *bounds)
        return _finished(made, {**options, "device": options.get("device") or input.device})

    return factory


def _finished(made: Tensor, options: dict[str, Any]) -> Tensor:
    _check_no_generator(options.get("generator"))
    _check_no_out(options.get("out"))
    device = options.get("device")
    made = made if device is None else made.to(device)
    return made.requires_grad_() if options.get("requires_grad") else made


def _whole(key: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None, *bounds: int) -> Tensor:
    low, high = bounds if len(bounds) == 2 else (0, *bounds)
    if dtype is not None and dtype.is_floating_point:
        return random.randint(key, shape, low=low, high=high).to(dtype)
    return random.randint(key, shape, low=low, high=high, dtype=dtype or torch.int64)


def _randint(draw: NextKey, *args: Any, **options: Any) -> Tensor:
    named = [options.pop(name) for name in ("low", "high", "size") if name in options]
    *bounds, size = (*args, *named)
    return _finished(_whole(draw(), tuple(size), options.get("dtype"), *bounds), options)


def _randperm(draw: NextKey, n: int, **options: Any) -> Tensor:
    return _finished(random.permutation(draw(), n).to(options.get("dtype") or torch.int64), options)


def _normal(draw: NextKey, mean: Any = 0.0, std: Any = 1.0, size: Any = None, **options: Any) -> Tensor:
    like = next((x for x in (mean, std) if isinstance(x, Tensor)), None)
    if like is None:
        return _finished(random.normal(draw(), tuple(size), mean=mean, std=std, dtype=options.get("dtype")), options)
    shape = torch.broadcast_shapes(*[x.shape for x in (mean, std) if isinstance(x, Tensor)])
    made = random.normal(draw(), tuple(shape), mean=mean, std=std, dtype=like.dtype)
    return _finished(made, {**options, "device": like.device})


def _bernoulli(
    draw: NextKey, input: Tensor, p: float | None = None, *, generator: Any = None, out: Any = None
) -> Tensor:
    _check_no_generator(generator)
    _check_no_out(out)
    rate = input.detach() if p is None else p
    return random.bernoulli(draw(), tuple(input.shape), p=rate).to(input.device, input.dtype)


def _multinomial(
    draw: NextKey,
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Any = None,
    out: Any = None,
) -> Tensor:
    _check_no_generator(generator)
    _check_no_out(out)
    logits = input.detach().log()
    if replacement:
        shape = (num_samples, *input.shape[:-1])
        return random.categorical(draw(), logits, shape=shape).movedim(0, -1).to(input.device)
    # One after another without putting back is the largest of log p + Gumbel.
    noise = random.gumbel(draw(), tuple(input.shape), dtype=input.dtype).to(input.device)
    return (logits + noise).topk(num_samples, -1).indices


def _in_place(make: Callable[..., Tensor]) -> Draw:
    """A method like `Tensor.normal_`; `make` takes (key, shape, dtype, *parameters)."""

    def fill(draw: NextKey, self: Tensor, *parameters: Any, generator: Any = None, **named: Any) -> Tensor:
        _check_no_generator(generator)
        return self.copy_(make(draw(), tuple(self.shape), self.dtype, *parameters, **named))

    return fill


def _fill_uniform(key: Tensor, shape: Any, dtype: Any, a: float = 0.0, b: float = 1.0) -> Tensor:
    return random.uniform(key, shape, low=a, high=b, dtype=dtype) if a != b else torch.full(shape, a, dtype=dtype)


def _fill_normal(key: Tensor, shape: Any, dtype: Any, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return random.normal(key, shape, mean=mean, std=std, dtype=dtype)


def _fill_log_normal(key: Tensor, shape: Any, dtype: Any, mean: float = 1.0, std: float = 2.0) -> Tensor:
    return random.normal(key, shape, mean=mean, std=std, dtype=dtype).exp()


def _fill_exponential(key: Tensor, shape: Any, dtype: Any, lambd: float = 1.0) -> Tensor:
    return random.exponential(key, shape, rate=lambd, dtype=dtype)


def _fill_cauchy(key: Tensor, shape: Any, dtype: Any, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    return median + sigma * torch.tan(math.pi * (random.uniform(key, shape, dtype=dtype) - 0.5))


def _fill_geometric(key: Tensor, shape: Any, dtype: Any, p: float) -> Tensor:
    waiting = random.exponential(key, shape, dtype=dtype if dtype.is_floating_point else torch.float64)
    return (waiting / -math.log1p(-p)).ceil().clamp(min=1) if p < 1 else torch.ones(shape)


def _fill_bernoulli(key: Tensor, shape: Any, dtype: Any, p: Any = 0.5) -> Tensor:
    del dtype
    return random.bernoulli(key, shape, p=p)


# Every whole number up to which a float dtype has all of them.
_WHOLE = {torch.float64: 2**53, torch.float32: 2**24, torch.float16: 2**11, torch.bfloat16: 2**8, torch.bool: 2}


def _random(draw: NextKey, self: Tensor, *bounds: int, generator: Any = None, **named: int) -> Tensor:
    _check_no_generator(generator)
    bounds = (*bounds, *[named[name] for name in ("from", "to") if name in named])
    if not bounds or bounds[-1] is None:
        limit = _WHOLE.get(self.dtype) or torch.iinfo(self.dtype).max
        bounds = (*bounds[:-1], limit)
    return self.copy_(_whole(draw(), tuple(self.shape), None, *bounds))


def _over(compute: Draw) -> Draw:
    """The variant in place."""

    def write(draw: NextKey, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return input.copy_(compute(draw, input, *args, **kwargs))

    return write


DRAWS: dict[Any, Draw] = {
    torch.dropout: _dropout,
    torch.dropout_: _over(_dropout),
    torch.feature_dropout: _feature_dropout,
    torch.feature_dropout_: _over(_feature_dropout),
    torch.alpha_dropout: _alpha_dropout,
    torch.alpha_dropout_: _over(_alpha_dropout),
    torch.feature_alpha_dropout: _feature_alpha_dropout,
    torch.feature_alpha_dropout_: _over(_feature_alpha_dropout),
    torch.native_dropout: _native_dropout,
    torch.rrelu: _rrelu,
    torch.rrelu_: _over(_rrelu),
    torch.nn.functional.scaled_dot_product_attention: _attention,
    **{getattr(torch, kind): _recurrent(kind) for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    torch.rand: _factory(lambda key, shape, dtype: random.uniform(key, shape, dtype=dtype)),
    torch.randn: _factory(lambda key, shape, dtype: random.normal(key, shape, dtype=dtype)),
    torch.rand_like: _alike(lambda key, shape, dtype: random.uniform(key, shape, dtype=dtype)),
    torch.randn_like: _alike(lambda key, shape, dtype: random.normal(key, shape, dtype=dtype)),
    torch.randint: _randint,
    torch.randint_like: _alike(_whole),
    torch.randperm: _randperm,
    torch.normal: _normal,
    torch.bernoulli: _bernoulli,
    Tensor.bernoulli: _bernoulli,
    torch.multinomial: _multinomial,
    Tensor.multinomial: _multinomial,
    Tensor.uniform_: _in_place(_fill_uniform),
    Tensor.normal_: _in_place(_fill_normal),
    Tensor.log_normal_: _in_place(_fill_log_normal),
    Tensor.exponential_: _in_place(_fill_exponential),
    Tensor.cauchy_: _in_place(_fill_cauchy),
    Tensor.geometric_: _in_place(_fill_geometric),
    Tensor.bernoulli_: _in_place(_fill_bernoulli),
    Tensor.random_: _random,
}
"""What torch's functions do with keys. Those that draw and are not here are refused."""

REFUSED = frozenset({torch.poisson, torch.binomial, torch._standard_gamma, torch._sample_dirichlet})
