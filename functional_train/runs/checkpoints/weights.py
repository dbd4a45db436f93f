"""Weights in and out of the files that other tools have: plain safetensors, and folders of `transformers`."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from functional_train.runs.checkpoints._describe import may_cast, shown
from functional_train.runs.checkpoints._replace import make_folder, replacing
from functional_train.updates.checks import check_whole
from functional_train.values.errors import CheckpointError, StructureError
from functional_train.values.params import Params

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d+-\d{5}-of-\d{5}\.safetensors")


def save_weights(
    path: str | PathLike[str], params: Mapping[str, Tensor], *, max_shard_size: int = 5_000_000_000
) -> None:
    """Write named tensors as plain safetensors, for other tools.

    A path that ends in `.safetensors` becomes one file. Any other becomes a folder that `transformers` reads, beside
    the `config.json` that `module.config.save_pretrained(folder)` puts there: `model.safetensors`, or several files and
    an index. A training state is saved with `ft.save`, which checks what it loads; these files hold no digests.

    Args:
        path: A file, or a folder, which is made when it is not there.
        params: Name to tensor, such as `functionalize(module).params`. Tensors that share memory are written apart.
        max_shard_size: Bytes of a file of a folder, at least 1.

    Raises:
        StructureError: params are no mapping of names to tensors.
        ImportError: safetensors is not installed.
        OSError: the files cannot be written; a file that was there is as it was.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.save_weights("weights.safetensors", ft.Params({"weight": torch.ones(2)}))
        >>> ft.load_weights("weights.safetensors")["weight"]
        tensor([1., 1.])
    """
    path = Path(path)
    if not isinstance(params, Mapping) or not all(isinstance(leaf, Tensor) for leaf in params.values()):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StructureError("params must map names to tensors, as ft.functionalize(module).params does.")
    check_whole("max_shard_size", max_shard_size, 1, "It counts bytes.")
    named = {name: leaf.detach().resolve_conj().resolve_neg().contiguous() for name, leaf in params.items()}
    if path.suffix == ".safetensors":
        _write(path, named)
        return
    make_folder(path)
    shards = _shards(named, max_shard_size)
    if len(shards) == 1:
        _write(path / _ONE, named)
        (path / _INDEX).unlink(missing_ok=True)
        for old in path.iterdir():
            if _SHARD.fullmatch(old.name):
                old.unlink()
        return
    places: dict[str, str] = {}
    # Names of their own, so that the index alone says which files belong together, until it is replaced.
    before = {file for file in path.iterdir() if _SHARD.fullmatch(file.name)}
    mark = next(at for at in itertools.count() if not any(file.name.startswith(f"model-{at}-") for file in before))
    for number, shard in enumerate(shards, 1):
        name = f"model-{mark}-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(path / name, {each: named[each] for each in shard})
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": sum(leaf.nbytes for leaf in named.values())}, "weight_map": places}
    with replacing(path / _INDEX) as file:
        file.write(json.dumps(index, indent=2, sort_keys=True).encode(), 0)
    for old in (path / _ONE, *before):
        old.unlink(missing_ok=True)


def _shards(named: Mapping[str, Tensor], most: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, leaf in named.items():
        if shards[-1] and size + leaf.nbytes > most:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += leaf.nbytes
    return shards


def _write(path: Path, named: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    # What shares memory is refused.
    uses = Counter(leaf.untyped_storage()._cdata for leaf in named.values())
    apart = {name: leaf.clone() if uses[leaf.untyped_storage()._cdata] > 1 else leaf for name, leaf in named.items()}
    with replacing(path) as file:
        save_file(apart, file.path, metadata={"format": "pt"})


def load_weights(
    path: str | PathLike[str],
    like: Mapping[str, Tensor] | None = None,
    *,
    partial: bool = False,
    cast: bool = False,
    prefix: str = "",
) -> Params:
    """Read named tensors from plain safetensors, or from a folder of `transformers`.

    Args:
        path: A `.safetensors` file, or a folder with `model.safetensors` or with an index and its files. Files of
            `ft.save` are read too, but not compared with their digests.
        like: Parameters whose names, shapes and dtypes are wanted, such as `functionalize(module).params`; in their
            order, and on their devices.
        partial: Whether parameters that the files lack keep the numbers of `like`, and others in the files are ignored.
        cast: Whether numbers of another floating dtype are converted to that of `like`.
        prefix: What names in the files begin with, and those of `like` do not, such as "model.".

    Returns:
        Name to tensor, without the prefix.

    Raises:
        CheckpointError: a file is no safetensors file, or names one outside of the folder.
        StructureError: files and `like` differ; the message lists where.
        ImportError: safetensors is not installed.
        OSError: a file cannot be read.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.save_weights("body.safetensors", {"model.w": torch.ones(1).half(), "head.w": torch.ones(1)})
        >>> ft.load_weights("body.safetensors", like={"w": torch.zeros(1)}, prefix="model.", partial=True, cast=True)
        Params of 1 tensors, 1 elements, 4 B
          w  (1,)  float32
    """
    path = Path(path)
    if like is None and (partial or cast):
        raise StructureError("partial= and cast= compare files with like=, which was not given.")
    stored = {
        name.removeprefix(prefix): (file, name)
        for file, names in _files(path).items()
        for name in names
        if name.startswith(prefix)
    }
    if like is None:
        return Params(_read(stored))
    chosen = {name: stored[name] for name in like if name in stored}
    lines = [] if partial else [f"{name!r}: the files have nothing there" for name in like if name not in stored]
    if not partial:
        lines += [f"{name!r}: the files have it, nothing is wanted there" for name in stored if name not in like]
    if partial and not chosen:
        lines = [f"no name in common: the files have {shown(list(stored), ', ')}"]
    found = _read(chosen)
    made: dict[str, Tensor] = {}
    for name, old in like.items():
        new = found.get(name, old)
        if new.shape != old.shape:
            lines.append(f"{name!r}: the files have shape {tuple(new.shape)}, wanted is {tuple(old.shape)}")
        elif new.dtype != old.dtype and not (cast and may_cast(new.dtype, old.dtype)):
            lines.append(f"{name!r}: the files have {new.dtype}, wanted is {old.dtype}")
        else:
            made[name] = new.to(old.device if old.device.type != "meta" else "cpu", old.dtype)
    if lines:
        raise StructureError(
            f"{path} does not hold the parameters of like=:\n  {shown(lines)}\n"
            "prefix= takes a beginning off the names, partial=True reads what both have, cast=True other dtypes."
        )
    return Params(made)


def _files(path: Path) -> dict[Path, list[str]]:
    """Which names are in which files."""
    if not path.is_dir():
        return {path: _names(path)}
    if (path / _INDEX).exists():
        try:
            places = json.loads((path / _INDEX).read_text())["weight_map"]
            files = {name: path / name for name in set(places.values())}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path / _INDEX}: it is no index of weights ({error!r:.200}).") from error
        for name in files:
            if Path(name).name != name:
                raise CheckpointError(f"{path / _INDEX}: it names {name!r:.200}, which is outside of its folder.")
        found = {file: _names(file) for file in sorted(files.values())}
        for name, file in places.items():
            if name not in found[files[file]]:
                raise CheckpointError(f"{path / _INDEX}: it says that {name!r:.200} is in {file}, which is not so.")
        return found
    if not (path / _ONE).exists():
        raise CheckpointError(f"{path}: the folder has neither {_ONE} nor {_INDEX}.")
    return {path / _ONE: _names(path / _ONE)}


def _names(file: Path) -> list[str]:
    with _open(file) as opened:
        return list(opened.keys())


def _read(chosen: Mapping[str, tuple[Path, str]]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in dict.fromkeys(file for file, _ in chosen.values()):
        with _open(file) as opened:
            found |= {name: opened.get_tensor(stored) for name, (where, stored) in chosen.items() if where == file}
    return {name: found[name] for name in chosen}


def _open(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise FileNotFoundError(2, "No such file", str(file))
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{file}: it is no safetensors file ({error}). Pickles are not read.") from error
