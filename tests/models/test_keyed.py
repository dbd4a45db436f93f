"""A module's randomness from a key: repeatable, distributed as torch's own, differentiable, compiled, redone."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

import functional_train as ft
from functional_train.models._keyed import KeyedDraws
from functional_train.values.errors import PurityError, StructureError
from tests.global_rng import seeded
from tests.values.draws import LEVEL, assert_same

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
KEY = ft.random.key(0)
# The same image for many channels.
X = torch.linspace(-1, 2, 64).view(8, 8).expand(4, 300, 8, 8)
IMAGES = X[0, :, None].repeat(1, 4, 1, 1)
ONES = torch.ones(2000)
ROWS = torch.linspace(-1, 1, 5 * 3 * 8).view(5, 3, 8)
WEIGHTS = torch.tensor([0.1, 0.0, 0.6, 0.3])


def on(x: Tensor, name: str, *args: Any, **kwargs: Any) -> Tensor:
    """A method in place, on a copy."""
    return getattr(x.clone(), name)(*args, **kwargs)


# Elementwise laws, so that the two samples of a test can be compared as they are.
FUNCTIONS: dict[str, Callable[[], Tensor]] = {
    "dropout": lambda: F.dropout(ONES, 0.3),
    "dropout in place": lambda: F.dropout(ONES.clone(), 0.3, inplace=True),
    "dropout of all": lambda: F.dropout(ONES, 1.0),
    "dropout1d": lambda: F.dropout1d(X[0, :, :2], 0.4),
    "dropout2d": lambda: F.dropout2d(X[..., :2], 0.4),
    "dropout3d": lambda: F.dropout3d(X[..., :1, :1, None], 0.4),
    "alpha_dropout": lambda: F.alpha_dropout(ONES, 0.3, training=True),
    "feature_alpha_dropout": lambda: F.feature_alpha_dropout(X[..., :2], 0.3, training=True),
    "torch.dropout": lambda: torch.dropout(ONES, 0.7, True),
    "native_dropout": lambda: torch.native_dropout(ONES, 0.7, True)[0],
    "rrelu": lambda: F.rrelu(-ONES, training=True),
    "rrelu in place": lambda: F.rrelu(-ONES, 0.2, 0.9, training=True, inplace=True),
    "gumbel_softmax": lambda: F.gumbel_softmax(torch.zeros(1000, 2)),
    "gumbel_softmax hard": lambda: F.gumbel_softmax(torch.tensor([[0.0, 1.0]]).expand(2000, 2), hard=True),
    "fractional_max_pool2d": lambda: F.fractional_max_pool2d(X, 2, output_size=5),
    "fractional_max_pool3d": lambda: F.fractional_max_pool3d(IMAGES, (1, 2, 2), output_size=(2, 5, 5)),
    "attention": lambda: F.scaled_dot_product_attention(*[ROWS.repeat(40, 1, 1)] * 3, dropout_p=0.5),
    "rand": lambda: torch.rand(2000),
    "rand of a tuple": lambda: torch.rand((50, 40), dtype=torch.float64),
    "randn": lambda: torch.randn(size=(2000,)),
    "rand_like": lambda: torch.rand_like(ONES),
    "randn_like": lambda: torch.randn_like(ONES, dtype=torch.float64),
    "randint": lambda: torch.randint(3, 90, (2000,)),
    "randint below": lambda: torch.randint(high=90, size=(2000,), dtype=torch.int32),
    "randint_like": lambda: torch.randint_like(ONES, 50),
    "randint_like between": lambda: torch.randint_like(ONES, low=20, high=50),
    "randperm": lambda: torch.randperm(2000)[:500],
    "normal": lambda: torch.normal(1.0, 2.0, (2000,)),
    "normal around": lambda: torch.normal(ONES, 0.5),
    "normal of widths": lambda: torch.normal(mean=0.0, std=ONES),
    "bernoulli": lambda: torch.bernoulli(0.2 * ONES),
    "bernoulli of p": lambda: ONES.bernoulli(0.2),
    "multinomial": lambda: torch.multinomial(WEIGHTS, 2000, replacement=True),
    "multinomial of some": lambda: WEIGHTS.expand(900, 4).multinomial(2),
    "uniform_": lambda: on(ONES, "uniform_", -1, 3),
    "normal_": lambda: on(ONES, "normal_", mean=3.0, std=0.1),
    "log_normal_": lambda: on(ONES, "log_normal_"),
    "exponential_": lambda: on(ONES, "exponential_", lambd=3.0),
    "cauchy_": lambda: on(ONES, "cauchy_", 1.0, 2.0),
    "geometric_": lambda: on(ONES, "geometric_", 0.3),
    "bernoulli_": lambda: on(ONES, "bernoulli_", 0.3),
    "bernoulli_ of a tensor": lambda: on(ONES, "bernoulli_", 0.3 * ONES),
    "random_": lambda: on(ONES, "random_"),
    "random_ below": lambda: on(ONES.int(), "random_", 17),
    "random_ between": lambda: on(ONES, "random_", 5, 17),
    "init.uniform_": lambda: nn.init.uniform_(ONES.clone()),
    "init.kaiming_normal_": lambda: nn.init.kaiming_normal_(torch.empty(50, 40)),
    "init.kaiming_uniform_": lambda: nn.init.kaiming_uniform_(torch.empty(50, 40)),
    "init.trunc_normal_": lambda: nn.init.trunc_normal_(torch.empty(50, 40)),
    "distributions": lambda: torch.distributions.Normal(ONES, 2.0).rsample(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_draw_from_the_key(name: str) -> None:
    """The same key, the same numbers, no other key's; no global generator moves; the law is that of torch."""
    run = FUNCTIONS[name]
    before = torch.get_rng_state()
    results = []
    for key in (KEY, KEY, ft.random.key(1)):
        with KeyedDraws(key) as draws:
            results.append(run())
        assert draws.count >= 1
    assert_same(torch.get_rng_state(), before)
    assert_same(results[0], results[1])
    assert "of all" in name or not torch.equal(results[0], results[2])
    with seeded():
        expected = run()
    assert (results[0].shape, results[0].dtype) == (expected.shape, expected.dtype)
    together = any(word in name for word in ("1d", "2d", "3d", "feature"))
    samples = [
        (x.flatten(0, -3)[:, -1, -1] if together else x.flatten()).double().numpy() for x in (results[0], expected)
    ]
    # Channels and places are dropped or chosen together: one number of each channel is one draw.
    assert stats.ks_2samp(*samples, method="asymp").pvalue > LEVEL


def modules() -> dict[str, nn.Module]:
    """Modules that draw in training."""
    with seeded():
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
        return {
            "dropout": nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.4), nn.Linear(8, 2)),
            "rrelu": nn.Sequential(nn.Linear(8, 8), nn.RReLU()),
            "alpha": nn.Sequential(nn.Linear(8, 8), nn.AlphaDropout(0.4)),
            "channels": nn.Dropout1d(0.5),
            "lstm": Recurrent(nn.LSTM(8, 6, 3, dropout=0.4, bidirectional=True, batch_first=True)),
            "lstm projected": Recurrent(nn.LSTM(8, 6, 2, dropout=0.4, proj_size=4)),
            "gru": Recurrent(nn.GRU(8, 6, 2, dropout=0.4, bias=False)),
            "rnn": Recurrent(nn.RNN(8, 6, 2, dropout=0.4, nonlinearity="relu")),
            "packed": Packed(nn.LSTM(8, 6, 2, dropout=0.4)),
            "attention": Attention(nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True), need_weights=True),
            "fast attention": Attention(nn.MultiheadAttention(8, 2, dropout=0.4), need_weights=False),
            "transformer": nn.TransformerEncoder(layer, 2),
        }


class Recurrent(nn.Module):
    """What a recurrent module computes, and its last states."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        out, last = self.rnn(x)
        return out.sum() + sum(state.square().sum() for state in (last if isinstance(last, tuple) else (last,))) + out


class Packed(nn.Module):
    """A recurrent module on sequences of several lengths."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 4, 2]))
        return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])[0]


class Attention(nn.Module):
    """Self-attention under a causal mask."""

    def __init__(self, attention: nn.Module, need_weights: bool) -> None:
        super().__init__()
        self.attention, self.need_weights = attention, need_weights

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[self.attention.batch_first], x.shape[self.attention.batch_first]).triu(1).bool()
        return self.attention(x, x, x, attn_mask=mask, need_weights=self.need_weights)[0]


@pytest.mark.parametrize("name", modules())
def test_modules_draw_from_the_key(name: str) -> None:
    """Deterministic; off in evaluation; its mean over keys is what evaluation computes where dropout is linear."""
    module = modules()[name]
    apply, params, _ = ft.functionalize(module)
    first = apply(params, ROWS, key=KEY)
    assert_same(apply(params, ROWS, key=KEY), first)
    assert not torch.equal(apply(params, ROWS, key=ft.random.key(1)), first)
    module.eval()
    for key in (None, KEY):
        torch.testing.assert_close(apply(params, ROWS, key=key, train=False), module(ROWS))


@pytest.mark.parametrize("name", [name for name in modules() if name != "rrelu"])
def test_a_rate_of_zero_changes_nothing(name: str) -> None:
    """With a key and all rates zero, each module computes what it computes in evaluation."""
    module = modules()[name]
    for part in module.modules():
        for field in ("p", "dropout"):
            if isinstance(getattr(part, field, None), float):
                setattr(part, field, 0.0)
    apply, params, _ = ft.functionalize(module)
    torch.testing.assert_close(apply(params, ROWS, key=KEY), apply(params, ROWS, train=False))


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "lstm projected", "packed"])
def test_dropout_between_layers(name: str) -> None:
    """Layer by layer by hand, with the masks that the key draws, to the same numbers."""
    rnn: Any = modules()[name].rnn  # type: ignore[union-attr]
    x = ROWS
    with KeyedDraws(KEY):
        if name == "packed":
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 4, 2]))
            found = rnn(packed)[0].data
        else:
            found = rnn(x)[0]
    for layer in range(rnn.num_layers):
        with seeded():
            size = x.shape[-1]
            one = type(rnn)(size, rnn.hidden_size, 1, bias=rnn.bias, **options_of(rnn))
        state = {
            key.replace(f"_l{layer}", "_l0"): value for key, value in rnn.state_dict().items() if f"_l{layer}" in key
        }
        one.load_state_dict(state)
        if layer:
            data = packed.data if name == "packed" else x
            data = data * (ft.random.bernoulli(ft.random.fold_in(KEY, layer - 1), data.shape, p=0.6) / 0.6)
            packed, x = (packed._replace(data=data), x) if name == "packed" else (None, data)
        if name == "packed":
            packed = one(packed)[0]
            x = packed.data
        else:
            x = one(x)[0]
    torch.testing.assert_close(found, x)


def options_of(rnn: Any) -> dict[str, Any]:
    options = {"bidirectional": rnn.bidirectional, "batch_first": rnn.batch_first}
    options |= {"proj_size": rnn.proj_size} if rnn.proj_size else {}
    return options | ({"nonlinearity": rnn.nonlinearity} if isinstance(rnn, nn.RNN) else {})


@pytest.mark.parametrize("name", ["dropout", "rrelu", "alpha", "attention", "fast attention", "transformer"])
def test_gradients_are_those_of_the_numbers_drawn(name: str) -> None:
    """With a key the loss is a function like any other: finite differences agree, and so do torch.func and autograd."""
    module = modules()[name].double()
    apply, params, _ = ft.functionalize(module)
    x = ROWS[:2].double()

    def loss(*leaves: Tensor) -> Tensor:
        return apply(dict(zip(params, leaves, strict=True)), x, key=KEY).square().sum()

    leaves = [leaf.clone().requires_grad_() for leaf in params.values()]
    assert torch.autograd.gradcheck(loss, leaves, fast_mode=True)
    by_autograd = torch.autograd.grad(loss(*leaves), leaves)
    by_func = torch.func.grad(loss, argnums=tuple(range(len(leaves))))(*params.values())
    for one, other in zip(by_autograd, by_func, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["dropout", "rrelu", "alpha", "channels", "attention", "transformer"])
def test_members_have_keys_of_their_own(name: str) -> None:
    """vmap over keys is the loop over them, and the compiled function draws what the plain one draws."""
    apply, params, _ = ft.functionalize(modules()[name])
    keys = ft.random.split(KEY, 3)

    def run(key: Tensor) -> Tensor:
        return apply(params, ROWS, key=key)

    expected = torch.stack([run(key) for key in keys])
    torch.testing.assert_close(torch.func.vmap(run)(keys), expected, rtol=1e-5, atol=1e-6)
    compiled = ft.compile(run, backend="eager")
    for key, row in zip(keys, expected, strict=True):
        torch.testing.assert_close(compiled(key), row, rtol=1e-5, atol=1e-6)
    assert compiled.cache_info().misses == 1


def test_a_step_owns_the_key() -> None:
    """A state with a key trains a module with dropout: two runs are one, and the key moves on."""
    with seeded():
        apply, params, _ = ft.functionalize(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 2)))

    def loss_fn(params: ft.Params, batch: Tensor, key: Tensor) -> Tensor:
        return apply(params, batch, key=key).square().mean()

    optimizer = ft.adam(1e-2)
    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
    losses = []
    for _ in range(2):
        state = ft.init_state(params, optimizer, key=KEY)
        losses.append([])
        for _ in range(5):
            state, metrics = step(state, ROWS)
            losses[-1].append(metrics["loss"].item())
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 5


def test_a_draw_without_a_key_is_an_error_and_moves_nothing() -> None:
    """It names the line, also inside of torch.func.grad, and the generator is where it was."""
    with seeded():
        apply, params, _ = ft.functionalize(nn.Sequential(nn.Linear(8, 1), nn.Dropout(0.5)))
    before = torch.get_rng_state()
    calls = (
        lambda: apply(params, ROWS),
        lambda: torch.func.grad(lambda params: apply(params, ROWS).sum())(dict(params)),
    )
    message = (
        r"Sequential draws from the global generator of torch, with bernoulli.* in .*test_keyed.py:\d+: .*\n"
        r"Pass key= to apply: key=ft.random.key\(0\)"
    )
    for call in calls:
        with pytest.raises(PurityError, match=message):
            call()
        assert_same(torch.get_rng_state(), before)
    assert apply(params, ROWS, train=False).shape == (5, 3, 1)


class Draws(nn.Module):
    """Draws as it is told."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return x + self.draw(x)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (torch.poisson, r"poisson cannot draw from a key. Draw outside of the module with ft.random"),
        (
            lambda x: torch.rand(3, 8, generator=torch.Generator()),
            r"a torch.Generator was passed to a function",
        ),
        (lambda x: torch.rand(3, 8, out=torch.empty(3, 8)), r"out= was passed to a function that draws from a key"),
        (
            lambda x: torch.ops.aten.bernoulli.p(x, 0.5),
            r"Draws draws from the global generator .* with bernoulli.p .*\nThis cannot be drawn from a key",
        ),
    ],
)
def test_what_a_key_cannot_stand_for_is_refused(draw: Callable[[Tensor], Tensor], message: str) -> None:
    """With what to do instead."""
    apply, params, _ = ft.functionalize(Draws(draw))
    before = torch.get_rng_state()
    with pytest.raises(PurityError, match=message):
        apply(params, ROWS.abs(), key=KEY)
    assert_same(torch.get_rng_state(), before)


def test_another_threads_draws_are_not_the_modules() -> None:
    """A forward during which somebody else moves the generator is not accused."""

    def elsewhere(x: Tensor) -> Tensor:
        worker = threading.Thread(target=lambda: torch.rand(1) if calls.append(1) is None and len(calls) == 1 else None)
        worker.start()
        worker.join()
        return x

    calls: list[int] = []
    apply, params, _ = ft.functionalize(Draws(elsewhere))
    with seeded():
        assert_same(apply(params, ROWS), 2 * ROWS)


@pytest.mark.parametrize("where", ["hook", "instance"])
def test_draws_of_torchs_own_modules_are_seen_where_somebody_changed_them(where: str) -> None:
    """A hook or another forward of a module that by itself draws nothing."""
    with seeded():
        module = nn.Sequential(nn.Linear(8, 8))
    if where == "hook":
        module[0].register_forward_hook(lambda module, args, output: output + torch.rand_like(output))
    else:
        module[0].forward = torch.rand_like
    apply, params, _ = ft.functionalize(module)
    with pytest.raises(PurityError, match=r"Sequential draws from the global generator of torch, with rand"):
        apply(params, ROWS)


def test_a_bad_key_is_explained() -> None:
    """As by every function of ft.random."""
    apply, params, _ = ft.functionalize(nn.Dropout())
    with pytest.raises(StructureError, match=r"key must be an int64 tensor of shape \(2,\), got 3 \(int\)"):
        apply(params, ROWS, key=3)
