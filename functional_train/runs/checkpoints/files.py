"""`save` and `load`: any tree in one file that is whole and unchanged, or does not load."""

from collections import Counter, deque
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.runs.checkpoints._contents import Contents, opened
from functional_train.runs.checkpoints._describe import (
    ANYTHING,
    Node,
    describe,
    differences,
    leaf_nodes,
    rebuild,
    shown,
    value_node,
)
from functional_train.runs.checkpoints._digests import Pieces, digester, finish
from functional_train.runs.checkpoints._header import check_readable, meaning, write_header
from functional_train.runs.checkpoints._layout import Plan, plan, view_of_bytes
from functional_train.runs.checkpoints._plain import name_of_dtype
from functional_train.runs.checkpoints._replace import replacing
from functional_train.steps.state import versions_of
from functional_train.values.errors import OwnershipError, StructureError
from functional_train.values.tree._lookup import Predicate, check_globs, matches
from functional_train.values.tree._structure import flatten, items, map, unflatten
from functional_train.values.types import Tree

# Bytes of entries that are written together; those that are on a device, or not contiguous, have a copy meanwhile.
_MOST_BEGUN = 1 << 26


def save(path: str | PathLike[str], tree: Tree, *, fsync: bool = True) -> None:
    """Write a tree to one file at exactly `path`.

    The file is in safetensors' format, so other tools can read the tensors under their paths (`params/layer1.weight`);
    structure and static values are JSON in its metadata, with a digest (SHA-256) of each tensor and of the header.
    Nothing in it is code. An older file is replaced at once, when the new one is on the disk: whenever the process is
    killed or the power fails, one of the two is there, whole.

    Tensors are written a few at a time, so a tree larger than half the memory can be saved. Leaves that share memory
    share it after `load`. Whether a leaf requires grad is not kept.

    Args:
        path: A file name, in a folder that exists.
        tree: Tensors, and plain values (None, bool, int, float, complex, str, bytes, dtypes, devices, tuples of them),
            in dicts, lists, tuples, NamedTuples, `Params` and structs such as `TrainState`.
        fsync: Whether to wait until the file is on the disk; without, it survives the process but perhaps not a power
            failure.

    Raises:
        StructureError: a leaf or container cannot be saved; the message has its path. Nothing is written then.
        OSError: the file cannot be written; the old one is as it was, and nothing is left of the new one.

    Example:
        >>> import functional_train as ft, torch
        >>> state = ft.init_state({"w": torch.ones(2)}, ft.adam())
        >>> ft.save("run.ckpt", state)
        >>> ft.load("run.ckpt").params
        {'w': tensor([1., 1.])}
    """
    write(Path(path), plan(tree), fsync=fsync)


class _Begun(NamedTuple):
    """An entry whose bytes threads are writing."""

    meaning: str
    pieces: Pieces
    at: int  # where it begins
    kept: Any  # what the threads read from


def write(path: Path, planned: Plan, *, fsync: bool) -> None:
    """Write what was planned."""
    node, entries, sources, leaves, versions = planned
    header = write_header(node, entries)
    check_readable(header, sum(entry.nbytes for entry in entries))
    start = at = len(header)
    digests: list[str] = []
    begun: deque[_Begun] = deque()

    def finish_one() -> None:
        digests.append(finish(begun[0].meaning, begun[0].pieces))
        begun.popleft()

    # When this fails, the threads end before the memory that they read from is let go, and before the file is closed.
    with replacing(path, fsync=fsync) as file, digester(file.write) as digest:
        for entry, source in zip(entries, sources, strict=True):
            while begun and at + entry.nbytes - begun[0].at > _MOST_BEGUN:
                finish_one()
            view, kept = view_of_bytes(source)
            begun.append(_Begun(meaning(entry), digest.pieces(view, at), at, kept))
            at += entry.nbytes
        while begun:
            finish_one()
        names = [name for name, each in leaf_nodes(node) if "tensor" in each]
        for name, now, before in zip(names, versions_of(leaves), versions, strict=True):
            if now != before:
                raise OwnershipError(
                    f"{name!r} was written to while it was saved to {path}, which stays as it was. A state is a "
                    "value; save ft.tree.copy(state) where others write to it."
                )
        header = write_header(node, entries, digests)
        assert len(header) == start
        file.write(header, 0)


def load(
    path: str | PathLike[str],
    like: Tree = None,
    *,
    partial: bool | Predicate = False,
    cast: bool = False,
    device: torch.device | str | None = None,
    mmap: bool = True,
) -> Tree:
    """Read a tree from a file that `save` wrote.

    Every byte is compared with its digest first: a file that is cut short, decayed or forged is an error that names
    the file and the leaf. Nothing in a file can run code.

    Args:
        path: The file.
        like: A tree of the structure that is expected, such as the state that training starts from; its numbers do not
            matter. Containers, names, shapes and dtypes have to agree; `...` stands for whatever is there. Without it
            the tree is made from what the file says, with this library's own classes only.
        partial: Which leaves of `like` to read; the others are kept from `like`, and others in the file ignored. True
            reads those that both have; a glob of paths, globs or `(path, leaf) -> bool` those that it takes, which the
            file must have. Containers are not compared then.
        cast: Whether floating leaves of another precision are converted to that of `like`.
        device: Where the tensors go; by default each to the device that it has in `like`, or to the CPU.
        mmap: Whether leaves on the CPU lie in pages of the file, read as they are needed and never written back. Then
            the file must be replaced (as `save` does) or removed, not written to in place, for as long as they live.

    Returns:
        The tree. None of its leaves requires grad.

    Raises:
        CheckpointError: the file is not what was saved.
        StructureError: file and `like` differ; the message lists where. Or `like` is needed, or partial takes what the
            file does not have.
        OSError: the file cannot be read.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.save("w.ckpt", {"w": torch.ones(2, dtype=torch.float64), "epoch": 3})
        >>> ft.load("w.ckpt", like={"w": torch.zeros(2), "epoch": 0}, cast=True)
        {'w': tensor([1., 1.]), 'epoch': 3}
        >>> ft.load("w.ckpt", like={"w": torch.zeros(3, dtype=torch.float64), "epoch": 0})
        Traceback (most recent call last):
        ...
        functional_train.values.errors.StructureError: ...
    """
    path = Path(path)
    if like is None and (partial is not False or cast):
        raise StructureError("partial= and cast= compare a file with like=, which was not given.")
    with opened(path) as (handle, header):
        chosen = None if partial is False else _chosen(path, header.node, like, partial)
        if like is not None:
            _check_alike(path, header.node, like, chosen, cast=cast)
        nodes = [node for _, node in leaf_nodes(header.node)] if chosen is None else chosen.values()
        entries = {node["tensor"] for node in nodes if "tensor" in node}
        contents = Contents.of(handle, header, mapped=mmap)
        contents.check(entries)
        make = contents.tensors(entries, None if device is None else torch.device(device))
        if chosen is None:
            tree = rebuild(header.node, make, like)
        else:
            new = [rebuild(chosen[name], make, leaf) if name in chosen else leaf for name, leaf in items(like)]
            tree = unflatten(flatten(like)[1], new)
    return map(_cast, like, tree) if cast else tree


def _cast(like: Any, leaf: Any) -> Any:
    return leaf.to(like.dtype) if isinstance(like, Tensor) else leaf


def _wanted(like: Tree) -> Node:
    def node(path: str, leaf: Any) -> Node:
        if leaf is ...:
            return ANYTHING
        if isinstance(leaf, Tensor):
            return {"tensor": 0, "dtype": name_of_dtype(leaf.dtype), "shape": list(leaf.shape)}
        return value_node(path, leaf)

    return describe(like, node)


def _check_alike(path: Path, found: Node, like: Tree, chosen: dict[str, Node] | None, *, cast: bool) -> None:
    """Refuse a file that is not like the tree that is wanted, or one whose chosen leaves are not."""
    wanted = _wanted(like)
    if chosen is None:
        lines = list(differences(found, wanted, cast=cast))
    else:
        leaves = dict(leaf_nodes(wanted))
        lines = [line for name in chosen for line in differences(chosen[name], leaves[name], name, cast=cast)]
    if lines:
        raise StructureError(
            f"{path} does not hold a tree of the structure of like=:\n  {shown(lines)}\n"
            "partial=True or partial='params/*' reads what both have, cast=True other dtypes; without like= load "
            "returns what the file holds."
        )


def _chosen(path: Path, node: Node, like: Tree, partial: bool | Predicate) -> dict[str, Node]:
    """The leaves of a file that are to be read, by path."""
    stored = dict(leaf_nodes(node))
    for holder, paths in (
        ("the file", [name for name, _ in leaf_nodes(node)]),
        ("like=", [name for name, _ in items(like)]),
    ):
        twice = next((name for name, count in Counter(paths).items() if count > 1), None)
        if twice is not None:
            raise StructureError(f"{path}: {holder} has two leaves at {twice!r}, which partial= cannot tell apart.")
    if partial is True:
        chosen = {name: stored[name] for name, _ in items(like) if name in stored}
        if not chosen:
            raise StructureError(
                f"{path} and like= have no path in common, so nothing would be read. The file has "
                f"{shown(list(stored), ', ')}."
            )
        return chosen
    assert not isinstance(partial, bool)
    check_globs(like, partial)
    names = [name for name, leaf in items(like) if matches(partial, name, leaf)]
    missing = [name for name in names if name not in stored]
    if missing:
        raise StructureError(f"{path} has nothing at {shown(missing, ', ')}. It has {shown(list(stored), ', ')}.")
    return {name: stored[name] for name in names}
