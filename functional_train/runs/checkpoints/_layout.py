"""Which bytes of a file hold which tensor: one entry a tensor, one for tensors that share memory."""

import ctypes
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._subclasses.fake_tensor import FakeTensor

from functional_train.runs.checkpoints._describe import Node, describe, value_node
from functional_train.runs.checkpoints._plain import dtype_named, name_of_dtype
from functional_train.steps.state import versions_of
from functional_train.values.errors import CheckpointError, StructureError

# What safetensors calls the dtypes of torch that it has.
_CODES: dict[str, str] = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32",
    "int64": "I64", "uint64": "U64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
# Others are written as what they consist of, with one dimension more.
_PARTS = {"complex128": "F64", "complex32": "F16"}
SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "C64": 8, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
# The most that a dtype wants the address of a number to be a multiple of.
_ALIGNMENT = 16
# Where torch lets the memory of a tensor begin: kernels that sum round otherwise where it begins elsewhere.
LINE = 64


class Entry(NamedTuple):
    """A run of bytes in a file, as the safetensors format describes it.

    Attributes:
        name: Unique in the file.
        code: The dtype as safetensors writes it.
        shape: In numbers of that dtype.
    """

    name: str
    code: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        size = SIZES[self.code]
        for length in self.shape:
            size *= length
        return size


def carrier(dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape under which a tensor is written."""
    name = name_of_dtype(dtype)
    if name in _CODES:
        return _CODES[name], shape
    code = _PARTS.get(name, "U8")
    return code, (*shape, dtype.itemsize // SIZES[code])


class _Extent(NamedTuple):
    low: int
    high: int


def _extent(leaf: Tensor) -> _Extent:
    """The bytes of its storage that a tensor lies in."""
    low = int(leaf.storage_offset())
    high = low + 1 + sum((length - 1) * stride for length, stride in zip(leaf.shape, leaf.stride(), strict=True))
    return _Extent(low * leaf.itemsize, high * leaf.itemsize)


def _dispatch(leaf: Tensor) -> Any:
    return getattr(type(leaf), "__torch_dispatch__", None)


def _refuse(path: str, leaf: Tensor) -> None:
    if leaf.layout is not torch.strided or leaf.is_quantized or leaf.is_nested:
        how = "leaf.to_dense()" if leaf.layout is not torch.strided else "leaf.dequantize()"
        raise StructureError(f"{path!r} is a {leaf.layout} tensor, which cannot be saved; save {how}.")
    if leaf.is_meta:
        raise StructureError(f"{path!r} is on the meta device and has no numbers to save.")
    if is_functorch_wrapped_tensor(leaf) or torch.compiler.is_compiling() or isinstance(leaf, FakeTensor):
        raise StructureError(f"{path!r} is a {type(leaf).__name__} inside of a transform or trace; save outside of it.")
    # Tensors of such classes keep their numbers in other tensors, and a pointer to nothing.
    if _dispatch(leaf) is not _dispatch(torch.empty(0)) or leaf._is_zerotensor():
        raise StructureError(
            f"{path!r} is a {type(leaf).__name__} without memory of its own; save the tensors that it is made of, or "
            "what makes it plain (full_tensor(), dequantize(), clone())."
        )


class Plan(NamedTuple):
    """What a file is to hold.

    Attributes:
        node: The tree, described.
        entries: In the order of the file.
        sources: For each entry the tensor whose bytes are written, contiguous or not.
        leaves: The tensors of the tree.
        versions: How often each of those had been written to.
    """

    node: Node
    entries: list[Entry]
    sources: list[Tensor]
    leaves: list[Tensor]
    versions: list[int | None]


def plan(tree: Any) -> Plan:
    """Decide what a file for a tree holds.

    Args:
        tree: Tensors and plain values in containers.

    Raises:
        StructureError: a leaf or a container cannot be saved.
    """
    found: list[tuple[str, Tensor, dict[str, Any]]] = []

    def leaf_node(path: str, leaf: Any) -> Node:
        if not isinstance(leaf, Tensor):
            return value_node(path, leaf)
        _refuse(path, leaf)
        node: dict[str, Any] = {"tensor": -1, "dtype": name_of_dtype(leaf.dtype), "shape": list(leaf.shape)}
        found.append((path, leaf.detach().resolve_conj().resolve_neg(), node))
        return node

    try:
        node = describe(tree, leaf_node)
    except RecursionError:
        raise StructureError("the tree is nested too deeply to be saved.") from None
    leaves = [leaf for _, leaf, _ in found]
    pieces: list[tuple[str, Tensor, list[dict[str, Any]]]] = []
    for group in _sharing(found):
        pieces += _pieces(group)
    # Entries that fill whole lines of the cache, so that all of them begin with one; then large numbers first, as
    # safetensors does it, so that the others begin where their dtype wants them to.
    order = sorted(range(len(pieces)), key=lambda place: _order(*pieces[place][1:]))
    entries, names = [], {"__metadata__"}
    for position, place in enumerate(order):
        path, source, nodes = pieces[place]
        for one in nodes:
            one["tensor"] = position
        entries.append(Entry(_unused(path or "tensor", names), *carrier(source.dtype, tuple(source.shape))))
    sources = [pieces[place][1] for place in order]
    return Plan(node, entries, sources, leaves, versions_of(leaves))


def _order(source: Tensor, nodes: list[dict[str, Any]]) -> tuple[bool, int]:
    return source.nbytes % LINE != 0, -(_ALIGNMENT if "offset" in nodes[0] else source.itemsize)


def _unused(path: str, names: set[str]) -> str:
    name, number = path, 1
    while name in names:
        number += 1
        name = f"{path}#{number}"
    names.add(name)
    return name


_Found = tuple[str, Tensor, dict[str, Any]]


def _sharing(found: list[_Found]) -> list[list[_Found]]:
    """Group leaves whose bytes overlap."""
    groups: list[list[_Found]] = []
    by_storage: dict[int, list[_Found]] = defaultdict(list)
    for item in found:
        if item[1].numel():
            by_storage[item[1].untyped_storage()._cdata].append(item)
        else:
            groups.append([item])
    for items in by_storage.values():
        end = -1
        for item in sorted(items, key=lambda item: _extent(item[1]).low):
            low, high = _extent(item[1])
            if low >= end:
                groups.append([])
            groups[-1].append(item)
            end = max(end, high)
    return groups


def _pieces(group: list[_Found]) -> list[tuple[str, Tensor, list[dict[str, Any]]]]:
    """What is written for leaves that share memory: once for equal ones, their whole memory for different ones."""
    path, leaf, node = group[0]
    nodes = [node for _, _, node in group]
    seen = {(one.storage_offset(), one.shape, one.stride(), one.dtype) for _, one, _ in group}
    if len(seen) == 1:
        if leaf.stride() != _strides(leaf.shape) and _is_dense(leaf.shape, leaf.stride()):
            for one in nodes:
                one["stride"] = list(leaf.stride())
        return [(path, leaf, nodes)]
    low = min(_extent(one).low for _, one, _ in group) // _ALIGNMENT * _ALIGNMENT
    high = max(_extent(one).high for _, one, _ in group)
    for _, one, node in group:
        node |= {"stride": list(one.stride()), "offset": one.storage_offset() - low // one.itemsize}
    memory = torch.empty(0, dtype=torch.uint8, device=leaf.device).set_(
        leaf.untyped_storage(), low, (high - low,), (1,)
    )
    # What comes after it has to begin at a multiple as well.
    memory = torch.nn.functional.pad(memory, (0, -(high - low) % _ALIGNMENT)) if (high - low) % _ALIGNMENT else memory
    return [(f"{path}#memory", memory, nodes)]


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a new tensor; those of dimensions of length 1 may be others in one that is contiguous too."""
    return torch.empty(shape, device="meta").stride()


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a tensor is contiguous but for the order of its dimensions."""
    expected = 1
    for stride, length in sorted(zip(strides, shape, strict=True)):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def view_of_bytes(leaf: Tensor) -> tuple[memoryview, Any]:
    """The bytes of a tensor, and what has to be kept for as long as they are looked at."""
    host = leaf.contiguous().cpu()
    if not host.numel():
        return memoryview(b""), host
    return memoryview((ctypes.c_char * host.nbytes).from_address(host.data_ptr())).cast("B"), host


def check_entries(node: Node, entries: list[Entry], name: str) -> None:
    """Refuse the node of a tensor that is not what its entry says, or that reaches beyond it."""
    entry, dtype, shape = entries[node["tensor"]], dtype_named(node["dtype"]), tuple(node["shape"])
    stride = node.get("stride")
    if stride is not None and len(stride) != len(shape):
        raise CheckpointError(f"{name!r:.200} has {len(shape)} dimensions and {len(stride)} strides.")
    if "offset" not in node:
        if carrier(dtype, shape) != (entry.code, entry.shape):
            raise CheckpointError(
                f"{name!r:.200} is described as {node['dtype']} of shape {shape}, its entry is {entry.code} of shape "
                f"{entry.shape}."
            )
        if stride is not None and not _is_dense(shape, stride):
            raise CheckpointError(f"{name!r:.200} has strides {stride}, with which its numbers would not lie together.")
        return
    reaches = math.inf
    if stride is not None and 0 not in shape:
        reaches = node["offset"] + 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if reaches * dtype.itemsize > entry.nbytes:
        raise CheckpointError(f"{name!r:.200} reaches beyond the memory that it shares with other leaves.")


def tensor_from(node: Node, memory: Tensor) -> Tensor:
    """The tensor that a node describes.

    Args:
        node: Checked.
        memory: The bytes of its entry, in a storage of its own; empty for an empty tensor.
    """
    dtype, shape, stride = dtype_named(node["dtype"]), tuple(node["shape"]), node.get("stride")
    if "offset" in node:
        empty = torch.empty(0, dtype=dtype, device=memory.device)
        return empty.set_(memory.untyped_storage(), memory.storage_offset() + node["offset"], shape, tuple(stride))
    if not memory.numel():
        return torch.empty(shape, dtype=dtype, device=memory.device)
    leaf = torch.empty(0, dtype=dtype, device=memory.device)
    leaf = leaf.set_(memory.untyped_storage(), 0, shape)  # pyright: ignore[reportCallIssue]
    return leaf if stride is None else torch.empty_strided(shape, stride, dtype=dtype, device=leaf.device).copy_(leaf)
