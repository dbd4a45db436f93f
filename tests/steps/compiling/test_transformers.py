"""Models of the transformers package train compiled as the usual loop trains them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import functional_train as ft
from tests.global_rng import seeded

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}
STILL: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def gpt2() -> nn.Module:
    still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    sizes = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **still, bos_token_id=1, eos_token_id=2))


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED))


def qwen2() -> nn.Module:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**GROUPED))


def mixtral() -> nn.Module:
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**GROUPED, num_local_experts=4))


def bert() -> nn.Module:
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, **STILL))


def t5() -> nn.Module:
    sizes = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0)
    )


def vit() -> nn.Module:
    sizes = {name: size for name, size in SIZES.items() if name != "vocab_size"}
    config = transformers.ViTConfig(**sizes, **STILL, image_size=16, patch_size=4, num_labels=3)
    return transformers.ViTForImageClassification(config)


def mamba() -> nn.Module:
    config = transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8)
    return transformers.MambaForCausalLM(config)


def text() -> dict[str, Tensor]:
    tokens = torch.arange(40).reshape(4, 10) * 7 % 64
    return {"input_ids": tokens, "labels": tokens}


def pictures() -> dict[str, Tensor]:
    pixels = torch.sin(torch.arange(4 * 3 * 16 * 16.0)).reshape(4, 3, 16, 16)
    return {"pixel_values": pixels, "labels": torch.tensor([0, 1, 2, 0])}


MODELS: list[Callable[[], nn.Module]] = [gpt2, llama, qwen2, mixtral, bert, t5, vit, mamba]


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_twenty_steps(make: Callable[[], nn.Module], backend: str) -> None:
    """The losses of twenty steps are those of the imperative loop, from one variant, in buffers that stay."""
    with seeded():
        module = make().train()
        batch = pictures() if make is vit else text()
        apply, params, buffers = ft.functionalize(module)
        usual = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
        expected: list[float] = []
        for _ in range(20):
            usual.zero_grad()
            loss = module(**batch).loss
            loss.backward()
            usual.step()
            expected.append(float(loss.detach()))

    def loss_fn(params: Any, batch: Any, buffers: Any = None) -> tuple[Tensor, ft.Aux]:
        if buffers is None:
            return apply(params, **batch).loss, ft.Aux()
        output, new = apply(params, buffers=buffers, **batch)
        return output.loss, ft.Aux(buffers=new)

    optimizer = ft.sgd(0.1, momentum=0.9)
    step = ft.compile(ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), optimizer), donate=True, backend=backend)
    state = ft.init_state(params, optimizer, buffers=buffers)
    actual: list[float] = []
    for _ in range(20):
        state, metrics = step(state, batch)
        actual.append(float(metrics["loss"]))
    # float32, carried on through twenty steps of losses that begin at 4.
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert expected[-1] < expected[0]
    assert step.cache_info().misses == 1
