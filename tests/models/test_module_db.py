"""Every module that torch tests itself with: `functionalize` computes what the module does, and changes nothing."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_modules import ModuleInfo, module_db
from torch.utils._pytree import tree_flatten

import functional_train as ft
from functional_train.values.errors import StructureError
from tests.global_rng import seeded

# What draws in training, where numbers from a key are others than torch's.
DRAWS = ("Dropout", "RReLU", "FractionalMaxPool", "Transformer", "MultiheadAttention", "LSTM", "GRU", "RNN")
SLOW = ("nn.LinearCrossEntropyLoss", "nn.Transformer", "nn.TransformerDecoderLayer", "nn.TransformerEncoder")


def _leaves(tree: Any) -> list[Any]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "info", [pytest.param(info, marks=[pytest.mark.slow] * (info.name in SLOW), id=info.name) for info in module_db]
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_functionalize_is_the_module(info: ModuleInfo, training: bool) -> None:
    """Outputs and buffers bit for bit; neither the module, nor params, nor buffers, nor inputs are changed."""
    with seeded():
        samples = info.module_inputs_func(info, "cpu", torch.float64, False, training)
        for sample in samples:
            if sample.forward_input is None:
                continue
            module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
            _compare(module.train(training).double(), sample.forward_input.args, sample.forward_input.kwargs, training)


def _compare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> None:
    if type(module).__name__.startswith("Lazy"):
        with pytest.raises(StructureError, match="has no shape yet"):
            ft.functionalize(module)
        return
    before = [leaf.clone() for leaf in _leaves((list(module.parameters()), list(module.buffers()), args, kwargs))]
    takes_key = isinstance(module, nn.MultiheadAttention)
    apply, params, buffers = ft.functionalize(module, forward_kwargs=("key",) if takes_key else ())
    own: dict[str, Any] = {"key": ft.random.key(0)} if training and not takes_key else {}
    own |= {"buffers": buffers} if buffers else {}
    values = [leaf.clone() for leaf in (*params.values(), *buffers.values())]
    returned = apply(params, *args, **own, **kwargs, train=training)
    output, new_buffers = returned if buffers else (returned, buffers)
    after = _leaves((list(module.parameters()), list(module.buffers()), args, kwargs))
    assert all(map(_same, after, before))
    assert all(map(_same, (*params.values(), *buffers.values()), values))

    # Parameters are values without gradients here, for which some modules have other code.
    args, kwargs = copy.deepcopy((args, kwargs))
    expected = module.requires_grad_(False)(*args, **kwargs)
    if not (training and type(module).__name__.removeprefix("Lazy").startswith(DRAWS)):
        assert all(map(_same, _leaves(output), _leaves(expected)))
    assert [leaf.shape for leaf in _leaves(output)] == [leaf.shape for leaf in _leaves(expected)]
    for name, buffer in module.named_buffers():
        assert _same(new_buffers[name], buffer), name


def _same(one: Tensor, other: Tensor) -> bool:
    return (
        torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))
        if one.is_floating_point()
        else torch.equal(one, other)
    )
