"""Weights that other tools wrote, and that they read."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import functional_train as ft
from tests.global_rng import seeded
from tests.runs.checkpoints.trees import RARE_DTYPES, assert_same


def params() -> ft.Params:
    generator = torch.Generator().manual_seed(0)
    return ft.Params({name: torch.randn(3, 4, generator=generator) for name in ("model.a", "model.b", "head")})


def test_safetensors_reads_what_we_wrote(tmp_path: Path) -> None:
    """And we read what it wrote."""
    path = tmp_path / "w.safetensors"
    ft.save_weights(path, params())
    assert_same(ft.Params({name: load_file(path)[name] for name in params()}), params())
    save_file(dict(params()), path)
    assert dict(ft.load_weights(path)).keys() == set(params())
    assert_same(ft.load_weights(path, like=params()), params())


def test_checkpoints_are_weights_too(tmp_path: Path) -> None:
    """The parameters of a training state, by prefix."""
    state = ft.init_state(params(), ft.adamw())
    ft.save(tmp_path / "run.ckpt", state)
    assert_same(ft.load_weights(tmp_path / "run.ckpt", like=params(), prefix="params/"), params())


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_folders(tmp_path: Path, size: int) -> None:
    """One file or several, and the one replaces the other."""
    for most in (size, 10_000, size):
        ft.save_weights(tmp_path, params(), max_shard_size=most)
        assert_same(ft.load_weights(tmp_path, like=params()), params())
    files = {path.name for path in tmp_path.glob("model*.safetensors")}
    index = tmp_path / "model.safetensors.index.json"
    assert ("model.safetensors" in files) == (size == 10_000)
    assert index.exists() == (size != 10_000)


def test_shared_and_strided_tensors(tmp_path: Path) -> None:
    """Each is there by its name."""
    base = torch.arange(6.0).reshape(2, 3)
    named = {"a": base, "b": base, "c": base.t(), "d": base[0]}
    ft.save_weights(tmp_path / "w.safetensors", named)
    found = ft.load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(found[name], leaf) for name, leaf in named.items())


def test_parts_prefixes_and_dtypes(tmp_path: Path) -> None:
    """As they are asked for."""
    path = tmp_path / "w.safetensors"
    ft.save_weights(path, params())
    like = ft.Params({"a": torch.zeros(3, 4, dtype=torch.float64), "new": torch.zeros(2)})
    found = ft.load_weights(path, like=like, prefix="model.", partial=True, cast=True)
    assert torch.equal(found["a"], params()["model.a"].double())
    assert torch.equal(found["new"], torch.zeros(2))
    for options, words in [
        ({}, "'a': the files have nothing there"),
        ({"prefix": "model."}, "'new': the files have nothing there"),
        ({"prefix": "model."}, "'b': the files have it, nothing is wanted there"),
        ({"prefix": "model.", "partial": True}, "'a': the files have torch.float32, wanted is torch.float64"),
        ({"prefix": "nothing.", "partial": True}, "no name in common"),
    ]:
        with pytest.raises(ft.StructureError, match=words):
            ft.load_weights(path, like=like, **options)
    with pytest.raises(ft.StructureError, match=r"'head': the files have shape \(3, 4\), wanted is \(5,\)"):
        ft.load_weights(path, like={"head": torch.zeros(5)}, partial=True)
    with pytest.raises(ft.StructureError, match="which was not given"):
        ft.load_weights(path, cast=True)


@pytest.mark.parametrize(
    "dtype", [dtype for dtype in RARE_DTYPES if "fnuz" not in str(dtype) and "32" not in str(dtype)]
)
def test_rare_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    leaf = torch.arange(8, dtype=torch.uint8).view(dtype)
    ft.save_weights(tmp_path / "w.safetensors", {"a": leaf})
    assert_same(ft.load_weights(tmp_path / "w.safetensors"), ft.Params({"a": leaf}))


def test_transformers_reads_what_we_wrote(tmp_path: Path) -> None:
    """A model trained here goes out to its own `from_pretrained`, in one file and in several; and comes in again."""
    config = transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=20, n_positions=16)
    with seeded(0):
        module = transformers.GPT2LMHeadModel(config)
    _, trained, _ = ft.functionalize(module)
    trained = ft.tree.map(lambda leaf: leaf + 1, trained)
    for most in (10**9, 2000):
        config.save_pretrained(tmp_path)
        ft.save_weights(tmp_path, trained, max_shard_size=most)
        with seeded(0):
            found = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
        assert_same(ft.functionalize(found).params, trained)
    with seeded(0):
        again = transformers.GPT2LMHeadModel(config)
        module.save_pretrained(tmp_path / "theirs")
    _, like, _ = ft.functionalize(again)
    assert_same(ft.load_weights(tmp_path / "theirs", like=like), ft.functionalize(module).params)


def test_what_is_no_folder_of_weights(tmp_path: Path) -> None:
    """Errors name the file, and nothing outside of a folder is read."""
    with pytest.raises(ft.CheckpointError, match=r"has neither model\.safetensors nor"):
        ft.load_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="none"):
        ft.load_weights(tmp_path / "none.safetensors")
    ft.save_weights(tmp_path / "outside.safetensors", params())
    inside = tmp_path / "inside"
    inside.mkdir()
    index = inside / "model.safetensors.index.json"
    for content, words in [
        ("{", "no index of weights"),
        ("[]", "no index of weights"),
        ("[" * 100_000, "no index of weights"),
        (json.dumps({"weight_map": {"head": 3}}), "no index of weights"),
        (json.dumps({"weight_map": {"head": "../outside.safetensors"}}), "outside of its folder"),
        (json.dumps({"weight_map": {"head": str(tmp_path / "outside.safetensors")}}), "outside of its folder"),
    ]:
        index.write_text(content)
        with pytest.raises(ft.CheckpointError, match=words):
            ft.load_weights(inside)
    ft.save_weights(inside / "part.safetensors", params())
    index.write_text(json.dumps({"weight_map": {"other": "part.safetensors"}}))
    with pytest.raises(ft.CheckpointError, match=r"says that 'other' is in part\.safetensors, which is not so"):
        ft.load_weights(inside)
    (inside / "part.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(ft.CheckpointError, match=r"no safetensors file .* Pickles are not read"):
        ft.load_weights(inside / "part.safetensors")


def test_what_is_no_mapping_of_tensors(tmp_path: Path) -> None:
    with seeded(0):
        module = nn.Linear(1, 1)
    for wrong in ([torch.ones(1)], {"a": 1}, module):
        with pytest.raises(ft.StructureError, match="must map names to tensors"):
            ft.save_weights(tmp_path / "w.safetensors", wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ft.HyperparameterError, match="max_shard_size must be an int >= 1"):
        ft.save_weights(tmp_path, params(), max_shard_size=0)
