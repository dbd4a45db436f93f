"""Which tensors the operations of torch read, told by the memory that they are given."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from functional_train.purity._watch import Place, stored
from functional_train.values._operands import given_by_name, name_of, operands
from functional_train.values.tree._structure import tensors

# They ask a tensor for its shape, dtype or device.
_OF_SHAPES = frozenset(
    {
        *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like"),
        *("new_empty", "new_empty_strided", "new_zeros", "new_ones", "new_full", "_new_zeros_with_same_feature_meta"),
        *("size", "sym_size", "stride", "sym_stride", "numel", "sym_numel", "storage_offset", "sym_storage_offset"),
        *("dim", "device", "layout", "is_contiguous", "sym_is_contiguous", "is_strides_like_format", "is_pinned"),
        *("is_non_overlapping_and_dense", "is_same_size", "_has_same_storage_numel", "_assert_tensor_metadata"),
        *("_has_compatible_shallow_copy_type", "is_set_to", "is_floating_point", "is_complex", "is_signed"),
        *("is_conj", "is_neg", "is_inference", "result_type"),
        *("bernoulli.p", "record_stream", "detach_", "requires_grad_", "retain_grad", "set_data"),
    }
)
# They put numbers into a tensor without a look at those that were there.
_OVERWRITING = frozenset(
    {
        *("zero_", "fill_", "copy_", "fill_diagonal_", "_foreach_zero_", "_foreach_copy_"),
        *("normal_", "uniform_", "random_", "bernoulli_", "exponential_", "cauchy_", "geometric_", "log_normal_"),
        *("masked_fill_", "masked_scatter_", "index_fill_", "index_copy_", "scatter_"),
        *("index_put_", "_index_put_impl_", "put_"),
    }
)
# They ask for running statistics and use those of the batch, or of a bias only its shape.
_UNUSED = {
    "native_layer_norm_backward": ("bias",),
    "cudnn_batch_norm_backward": ("running_mean", "running_var"),
    "miopen_batch_norm_backward": ("running_mean", "running_var"),
}


class Span(NamedTuple):
    """Bytes of a storage."""

    storage: torch.UntypedStorage
    start: int
    end: int

    def overlaps(self, other: "Span") -> bool:
        """Whether two spans of one storage have a byte in common."""
        return max(self.start, other.start) < min(self.end, other.end)


def spans(tensor: Tensor) -> list[Span]:
    """Where the content of a tensor of any kind lies; a tensor without a storage has none."""
    return [_span(part) for part in stored(tensor)]


def _span(tensor: Tensor) -> Span:
    storage = tensor.untyped_storage()
    if tensor.is_nested:
        return Span(storage, 0, storage.nbytes())
    start = int(tensor.storage_offset()) * tensor.itemsize
    if not tensor.numel():
        return Span(storage, start, start)
    num_steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return Span(storage, start, start + (num_steps + 1) * tensor.itemsize)


class Reads:
    """Names of the tensors, of those that were there when this was made, which operations have read since.

    Args:
        places: Where the tensors are. Their memory is kept, so that no other tensor can take its place.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self.names: set[str] = set()
        self._spans: dict[int, list[tuple[Span, str]]] = {}
        for place in places:
            for tensor in (place.value, place.held):
                for span in spans(tensor) if isinstance(tensor, Tensor) else ():
                    self._spans.setdefault(span.storage._cdata, []).append((span, place.name))

    def touched(self, read: Iterable[Span]) -> set[str]:
        """The names of what lies where an operation reads."""
        return {
            name for span in read for known, name in self._spans.get(span.storage._cdata, ()) if span.overlaps(known)
        }


class Operations(TorchDispatchMode):
    """Sees each operation, below autograd and the transforms of torch.func, and notes what it reads.

    Args:
        listening: Gives those who are told, at each operation.
    """

    supports_higher_order_operators = True
    only_looks_on = True

    def __init__(self, listening: Callable[[], Iterable[Reads]]) -> None:
        super().__init__()
        self._listening = listening

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Before the operation runs, which may give a tensor another memory.
        read = [span for tensor in _read(func, args, kwargs) for span in spans(tensor)]
        touched = [(reads, names) for reads in self._listening() if (names := reads.touched(read))]
        result = func(*args, **kwargs)
        if touched and not _is_view(func, read, result):
            for reads, names in touched:
                reads.names |= names
        return result


def _read(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors whose numbers an operation reads, or may read through what it returns."""
    if not hasattr(func, "_schema"):  # an operator on functions, such as cond
        yield from tensors((args, kwargs))
        return
    name = name_of(func)
    if not _OF_SHAPES.isdisjoint((name, f"{name}.{func._overloadname}")) or torch.Tag.inplace_view in func.tags:
        return
    given = given_by_name(func, args, kwargs)
    unused = {id(given.get(argument)) for argument in _unused(name, given)}
    overwrites = _overwrites(func, name, given)
    for tensor, is_written in operands(func, args, kwargs):
        if not (is_written and overwrites) and id(tensor) not in unused:
            yield tensor


def _overwrites(func: Any, name: str, given: Mapping[str, Any]) -> bool:
    """Whether what an operation writes to is not read by it."""
    if any(argument.is_out for argument in func._schema.arguments):
        return True
    return name in _OVERWRITING and not given.get("accumulate") and "reduce" not in func._overloadname


def _unused(name: str, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments that an operation asks for and does not read."""
    if name == "native_batch_norm_backward" and given["train"]:
        return ("running_mean", "running_var")
    if name == "batch_norm_backward" and given["update"]:
        return ("running_mean", "running_var")
    if name == "convolution_backward":
        for_input, for_weight, _ = given["output_mask"]
        return (*(() if for_input else ("weight",)), *(() if for_weight else ("input",)))
    return _UNUSED.get(name, ())


def _is_view(func: Any, read: list[Span], result: Any) -> bool:
    """Whether all that an operation returns lies in the memory that it was given: it looked at no number."""
    if not hasattr(func, "_schema") or func._schema.is_mutable:
        return False
    given = {span.storage._cdata for span in read}
    returned = [span for tensor in tensors(result) for span in spans(tensor)]
    return bool(returned) and all(span.storage._cdata in given for span in returned)
