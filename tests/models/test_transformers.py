"""Models of transformers from tiny configurations: apply takes keyword batches and gives output objects."""

import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from functional_train.models import functionalize
from tests.global_rng import seeded
from tests.models.cases import assert_same, trainable

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 8, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
TOKENS = {"vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# Class of the configuration, its arguments, class of the model, number of names that are ties to others.
CASES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "gpt2": ("GPT2Config", {**TOKENS, **GPT2}, "GPT2LMHeadModel", 1),
    "llama": ("LlamaConfig", {**SIZES, "num_key_value_heads": 1}, "LlamaForCausalLM", 0),
    "bert": ("BertConfig", {**SIZES, **NO_DROPOUT}, "BertForMaskedLM", 2),
    "t5": ("T5Config", {**TOKENS, **T5, "decoder_start_token_id": 0}, "T5ForConditionalGeneration", 3),
    "vit": ("ViTConfig", {**SIZES, **NO_DROPOUT, "image_size": 8, "patch_size": 4}, "ViTForImageClassification", 0),
}


def make(case: str, checkpointing: bool) -> tuple[nn.Module, dict[str, Tensor]]:
    """Build a model and a batch with labels."""
    config, arguments, model, _ = CASES[case]
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = getattr(transformers, model)(getattr(transformers, config)(**arguments)).train()
        if checkpointing:
            module.gradient_checkpointing_enable()
        if case == "vit":
            return module, {"pixel_values": torch.randn(2, 3, 8, 8), "labels": torch.tensor([0, 1])}
        ids = torch.randint(3, 32, (2, 6))
    return module, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_apply_equals_the_model(case: str, checkpointing: bool) -> None:
    """Output object and gradients are bitwise those of the model, with activation checkpointing too; ties come once."""
    module, batch = make(case, checkpointing)
    apply, params, buffers = functionalize(module)
    assert list(params) == [name for name, _ in module.named_parameters()]
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    assert len(names - set(params)) == CASES[case][3]
    params = trainable(params)
    flags = [submodule.training for submodule in module.modules()]
    output, new_buffers = apply(params, **batch, output_hidden_states=True, buffers=buffers)
    again, _ = apply(params, **batch, output_hidden_states=True, buffers=buffers)
    expected = module(**batch, output_hidden_states=True)
    assert type(output) is type(expected)
    assert list(output) == list(expected)
    for name in expected:
        # A cache is an object of its own, and its name differs between releases.
        if not isinstance(expected[name], transformers.Cache):
            assert_same(output[name], expected[name])
            assert_same(output[name], again[name])
    assert_same([*new_buffers.values(), output.loss], [*module.buffers(), expected.loss])
    gradients = torch.autograd.grad(output.loss, list(params.values()), allow_unused=True)
    others = torch.autograd.grad(expected.loss, list(module.parameters()), allow_unused=True)
    assert [gradient is None for gradient in gradients] == [other is None for other in others]
    assert_same(tree_leaves([g for g in gradients if g is not None]), [g for g in others if g is not None])
    assert flags == [submodule.training for submodule in module.modules()]
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("case", CASES)
def test_torch_func_grad(case: str) -> None:
    """torch.func.grad through apply, buffers as aux, agrees with autograd."""
    module, batch = make(case, checkpointing=False)
    apply, params, buffers = functionalize(module)

    def loss_fn(params: Any) -> tuple[Tensor, Any]:
        output, new_buffers = apply(params, **batch, buffers=buffers)
        return output.loss, dict(new_buffers)

    grads, new_buffers = torch.func.grad(loss_fn, has_aux=True)(dict(params))
    assert list(new_buffers) == list(buffers)
    leaves = trainable(params)
    expected = torch.autograd.grad(loss_fn(leaves)[0], list(leaves.values()), materialize_grads=True)
    torch.testing.assert_close(list(grads.values()), list(expected))
