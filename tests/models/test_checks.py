"""Every mistake with a module or with its tensors is an error that says what, where, the rule, and the way out."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from functional_train.models import functionalize, merge
from functional_train.values.errors import StructureError
from functional_train.values.params import Params
from tests.global_rng import seeded

X = torch.ones(4, 3)


def make_module() -> nn.Module:
    with seeded(0):
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def change(**changes: Any) -> Callable[[Params], dict[str, Any]]:
    """Replace leaves, or leave them out with `...`; `_` stands for a dot."""
    named = {name.replace("_", ".", 1).lstrip("n"): value for name, value in changes.items()}
    return lambda tree: {name: value for name, value in {**tree, **named}.items() if value is not ...}


PARAMS_ERRORS: list[tuple[Callable[[Params], Any], str]] = [
    (change(n0_weight=..., n0_wieght=torch.ones(2, 3)), r"params\['0.wieght'\].* no parameter .*mean '0.weight'\?"),
    (
        change(unrelated=X),
        r"params\['unrelated'\]: Sequential has no parameter .* It has '0.weight', '0.bias', '1.weight'",
    ),
    (change(n1_bias=...), r"params\['1.bias'\] is missing, shape \(2,\), torch.float32: all 4 params .* got 3"),
    (change(n0_weight=torch.ones(3, 2)), r"params\['0.weight'\] has shape \(3, 2\), but in Sequential .* \(2, 3\)"),
    (change(n0_bias=torch.ones(2, dtype=torch.int64)), r"params\['0.bias'\] is torch.int64, .*Any floating dtype"),
    (change(n0_bias=torch.ones(2, dtype=torch.complex64)), r"params\['0.bias'\] is torch.complex64"),
    (change(n0_bias=torch.ones(2, dtype=torch.bool)), r"params\['0.bias'\] is torch.bool"),
    (change(n0_bias=None), r"params\['0.bias'\] must be a tensor, got None .*ft.tree.combine"),
    (change(n0_bias=[1.0, 2.0]), r"params\['0.bias'\] must be a tensor, got \[1.0, 2.0\] \(list\)"),
    (lambda params: list(params.values()), "params must be a mapping from name to tensor, got list"),
    (lambda params: None, "params must be a mapping from name to tensor, got NoneType"),
    (lambda params: {**params, 3: X}, r"params\[3\]: Sequential has no parameter"),
]
BUFFERS_ERRORS: list[tuple[Callable[[Params], Any], str]] = [
    (change(n1_running_mean=torch.ones(3)), r"buffers\['1.running_mean'\] has shape \(3,\)"),
    (
        change(n1_num_batches_tracked=torch.tensor(0.0)),
        r"buffers\['1.num_batches_tracked'\] is torch.float32, .*integer",
    ),
    (
        change(n1_running_mean=..., n1_runing_mean=X),
        r"buffers\['1.runing_mean'\].* no buffer .*mean '1.running_mean'\?",
    ),
    (lambda buffers: Params({}), r"buffers\['1.running_mean'\] is missing"),
]


@pytest.mark.parametrize(("spoil", "message"), PARAMS_ERRORS)
def test_wrong_params(spoil: Callable[[Params], Any], message: str) -> None:
    """apply and merge refuse the same params with the same words, and no other error is behind it."""
    module = make_module()
    apply, params, buffers = functionalize(module)
    with pytest.raises(StructureError, match=message) as caught:
        apply(spoil(params), X, buffers=buffers)
    with pytest.raises(StructureError, match=message):
        merge(module, spoil(params))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(("spoil", "message"), BUFFERS_ERRORS)
def test_wrong_buffers(spoil: Callable[[Params], Any], message: str) -> None:
    """apply and merge refuse the same buffers with the same words."""
    module = make_module()
    apply, params, buffers = functionalize(module)
    with pytest.raises(StructureError, match=message):
        apply(params, X, buffers=spoil(buffers))
    with pytest.raises(StructureError, match=message):
        merge(module, params, spoil(buffers))


def test_buffers_are_needed_exactly_if_there_are_any() -> None:
    """A module with buffers asks for them; one without takes none, or an empty mapping, and answers in kind."""
    apply, params, _ = functionalize(make_module())
    with pytest.raises(StructureError, match=r"3 buffers \('1.running_mean', .*apply\(params, ..., buffers=buffers\)"):
        apply(params, X)
    with seeded(0):
        apply, params, buffers = functionalize(nn.Linear(3, 2))
    output, new_buffers = apply(params, X, buffers=buffers)
    assert isinstance(new_buffers, Params)
    assert len(new_buffers) == 0
    assert torch.equal(apply(params, X), output)
    with pytest.raises(StructureError, match="Linear has no buffer of that name"):
        apply(params, X, buffers={"mean": X})


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_floating_dtype_is_accepted(dtype: torch.dtype) -> None:
    """Params may be kept in another floating dtype than the module's, and in any order."""
    module = make_module()
    apply, params, buffers = functionalize(module)
    cast = {name: tensor.to(dtype) for name, tensor in reversed(list(params.items()))}
    cast_buffers = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in buffers.items()
    }
    assert apply(cast, X.to(dtype), buffers=cast_buffers)[0].dtype == dtype
    assert next(merge(module, cast).parameters()).dtype == dtype


@pytest.mark.parametrize("train", [None, 1, "yes"])
def test_train_is_a_bool_or_a_predicate(train: Any) -> None:
    """Anything else is refused."""
    apply, params, buffers = functionalize(make_module())
    with pytest.raises(StructureError, match="train must be True, False or a predicate on module paths, got"):
        apply(params, X, buffers=buffers, train=train)


class Stubborn(nn.Linear):
    """Copies its own weight whatever the memo says."""

    def __deepcopy__(self, memo: Any) -> nn.Module:
        return nn.Linear(2, 2)


class Unmovable(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = (number for number in range(3))


class Sharded(nn.Linear):
    """Looks like a class of torch.distributed.fsdp, which need a process group."""

    __module__ = "torch.distributed.fsdp.fully_sharded_data_parallel"


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return nn.Sequential(torch.jit.script(nn.Linear(2, 2)))


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: torch.sin, "takes an nn.Module, got builtin_function_or_method"),
    (lambda: nn.Linear, "got the class Linear. Make an instance"),
    (lambda: nn.Sequential(nn.LazyLinear(2)), r"submodule '0', a LazyLinear: 'weight' has no shape yet. Run one batch"),
    (lambda: nn.LazyBatchNorm1d(affine=False), "'running_mean' has no shape yet"),
    (scripted, "submodule '0', a RecursiveScriptModule: .*TorchScript.*scripted"),
    (lambda: torch.compile(nn.Linear(2, 2)), "the module, a OptimizedModule: .*`module._orig_mod`"),
    (lambda: nn.DataParallel(nn.Linear(2, 2)), "the module, a DataParallel: .*`module.module`"),
    (lambda: nn.Sequential(Sharded(2, 2)), "submodule '0', a Sharded: it owns and shards its parameters"),
    (lambda: Stubborn(2, 2), "Stubborn copies 'weight' without regard to the memo"),
    (Unmovable, "Unmovable cannot be copied with copy.deepcopy: cannot pickle 'generator' object"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_refused_modules(build: Callable[[], Any], message: str) -> None:
    """functionalize and merge refuse what they cannot take, and say what to pass instead."""
    with seeded(0):
        module = build()
        with pytest.raises(StructureError, match=f"^(functionalize )?.*{message}"):
            functionalize(module)
        with pytest.raises(StructureError, match=message):
            merge(module, dict(module.named_parameters()) if isinstance(module, (Stubborn, Unmovable)) else {})


class Trainer(nn.Linear):
    """A forward with keywords that apply has for itself."""

    def forward(self, x: Tensor, *, train: int = 0, buffers: int = 0) -> Tensor:
        return super().forward(x) * (2 * train + buffers + 1)


def test_reserved_keywords() -> None:
    """A clash is an error that names forward_kwargs, the way for a keyword to reach the forward; **kwargs is none."""
    with seeded(0):
        attention, trainer = nn.MultiheadAttention(4, 2), Trainer(3, 3)
        query, key, value = torch.randn(3, 5, 2, 4)
    with pytest.raises(StructureError, match=r"MultiheadAttention.forward has an argument named 'key'.*\('key',\)"):
        functionalize(attention)
    apply, params, _ = functionalize(attention, forward_kwargs=("key",))
    expected = attention(query, key=key, value=value, need_weights=False)[0]
    trainable = {name: tensor.requires_grad_() for name, tensor in params.items()}
    assert torch.equal(apply(trainable, query, key=key, value=value, need_weights=False)[0], expected)
    apply, params, _ = functionalize(trainer, forward_kwargs=("train", "buffers"))
    assert torch.equal(apply(params, X, train=3, buffers=4), trainer(X, train=3, buffers=4))
    with pytest.raises(StructureError, match="named 'buffers'"):
        functionalize(trainer, forward_kwargs=("train",))
    trainer.register_buffer("offset", X)
    with pytest.raises(StructureError, match="cannot hold 'buffers': Trainer has buffers of its own"):
        functionalize(trainer, forward_kwargs=("train", "buffers"))
    for wrong in ("key", ("kye",)):
        with pytest.raises(StructureError, match="forward_kwargs must be a tuple of names out of"):
            functionalize(attention, forward_kwargs=wrong)

    class Open(nn.Linear):
        def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
            return super().forward(x) + len(kwargs)

    with seeded(0):
        module = Open(3, 3)
    apply, params, _ = functionalize(module)
    plain = nn.Identity()
    plain.forward = torch.relu  # has no signature
    assert torch.equal(functionalize(plain).apply({}, -X), 0 * X)
    assert torch.equal(apply(params, X, other=1), apply(params, X, train=False) + 1)
    with pytest.raises(StructureError, match=r"method='fowrard': Open has no such method. Did you mean 'forward'"):
        functionalize(module, method="fowrard")
