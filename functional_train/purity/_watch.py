"""What live objects hold: each tensor and number that code could write to, its name, and what it was before."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from functional_train.values.errors import StructureError
from functional_train.values.tree._structure import as_known_mappings, items

PARAMETERS, BUFFERS, GRADIENTS, VALUES, ENTRIES = "parameters", "buffers", "gradients", "values", "entries"
# Compared with ==; any other object that is no tensor is compared by identity.
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class Place(NamedTuple):
    """Somewhere in a watched object that can be written to. Its name is opening, path and closing in one."""

    opening: str  # "model.", "optimizer.state[model."
    path: str  # "0.weight"
    closing: str  # "", ".grad", "].exp_avg"
    role: str  # what several of its kind are called
    value: Any  # a tensor or a plain value; None when there is nothing
    held: Tensor | None = None  # the tensor behind a value that is given out as another one

    @property
    def name(self) -> str:
        """The name that users see: "model.0.weight.grad"."""
        return f"{self.opening}{self.path}{self.closing}"


class Memory(NamedTuple):
    """A place as it was."""

    place: Place
    content: Any  # copies of the tensor's parts, or the plain value


class Watch:
    """Finds the places of named objects, again at each call: what appears later is found too.

    A tensor that several objects hold is found in the first of them.

    Args:
        objects: Name to module, optimizer, tree of tensors, or anything with a `state_dict()`.
    """

    def __init__(self, objects: Mapping[str, Any]) -> None:
        self._objects = dict(objects)
        # By id; the tensors are kept, so that no other tensor can take their place.
        self._first_names: dict[int, tuple[Tensor, str, str]] = {}

    def check(self) -> None:
        """Refuse objects in which there is nothing to watch, or that are given twice."""
        _check_given_once(self._objects)
        for (name, watched), found in zip(self._objects.items(), self._found(), strict=True):
            if not _can_be_watched(watched, found):
                alone = list(self._walk(name, watched, set()))
                raise StructureError(_refusal(name, watched, held_by_others=_can_be_watched(watched, alone)))

    def places(self) -> list[Place]:
        """All places, in the order of the objects."""
        return list(chain.from_iterable(self._found()))

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules among the objects and in trees of them, by name; those inside others not."""
        for name, watched in self._objects.items():
            if isinstance(watched, nn.Module):
                yield name, watched
            elif _is_tree(watched):
                for path, leaf in items(as_known_mappings(watched)):
                    if isinstance(leaf, nn.Module):
                        yield f"{name}/{path}", leaf

    def _found(self) -> list[list[Place]]:
        seen: set[int] = set()
        found: dict[str, list[Place]] = {}
        # An optimizer names its state after the parameters, which the others hold.
        for name, watched in sorted(self._objects.items(), key=lambda item: isinstance(item[1], Optimizer)):
            found[name] = list(self._walk(name, watched, seen))
            for place in found[name]:
                # Tensors that may be made anew at each call would pile up here.
                if isinstance(place.value, Tensor) and place.role not in {GRADIENTS, ENTRIES}:
                    self._first_names.setdefault(id(place.value), (place.value, place.opening, place.path))
        return [found[name] for name in self._objects]

    def _walk(self, name: str, watched: Any, seen: set[int]) -> Iterator[Place]:
        if isinstance(watched, nn.Module):
            yield from _in_module(name, watched, seen)
        elif isinstance(watched, Optimizer):
            yield from self._in_optimizer(name, watched, seen)
        elif _has_state_dict(watched):
            for key, entry in watched.state_dict().items():
                held = _held(watched, str(key))
                for place in _in_entry(f"{name}.", str(key), "", ENTRIES, entry, seen):
                    yield place if held is place.value else place._replace(held=held)
        elif isinstance(watched, Tensor):
            yield from _in_tensor("", name, "", "tensors", watched, seen)
        else:
            for path, leaf in items(as_known_mappings(watched)):
                if isinstance(leaf, Tensor):
                    yield from _in_tensor(f"{name}/", path, "", "tensors", leaf, seen)
                elif not _is_tree(leaf):
                    yield from self._walk(f"{name}/{path}", leaf, seen)
                elif path and isinstance(leaf, _PLAIN):
                    yield Place(f"{name}/", path, "", VALUES, leaf)

    def _in_optimizer(self, name: str, optimizer: Optimizer, seen: set[int]) -> Iterator[Place]:
        parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        positions = {id(parameter): position for position, parameter in enumerate(parameters)}
        for key, entries in optimizer.state.items():
            _, opening, path = self._first_names.get(id(key), (key, "", str(positions.get(id(key), key))))
            yield from _in_entry(f"{name}.state[{opening}", path, "]", "tensors", entries, seen)
        for number, group in enumerate(optimizer.param_groups):
            for key, entry in group.items():
                if key not in {"params", "param_names"}:
                    yield from _in_entry(f"{name}.param_groups[{number}].", key, "", "tensors", entry, seen)


def _check_given_once(objects: Mapping[str, Any]) -> None:
    if not objects:
        raise StructureError(
            "record_effects was given nothing to watch. Name the objects: "
            "ft.record_effects(model=model, optimizer=optimizer)."
        )
    first_names: dict[int, str] = {}
    for name, watched in objects.items():
        if id(watched) in first_names:
            raise StructureError(f"{first_names[id(watched)]!r} and {name!r} are one object; watch it under one name.")
        first_names[id(watched)] = name


def _can_be_watched(watched: Any, found: list[Place]) -> bool:
    """Whether there is enough in an object: numbers alone are enough where code can write to them."""
    return any(isinstance(place.value, Tensor) or not _is_tree(watched) for place in found)


def _refusal(name: str, watched: Any, *, held_by_others: bool) -> str:
    if held_by_others:
        return f"each tensor of {name!r} is watched already, as part of another object. Leave one of the two out."
    hint = "A generator can be read only once: pass a list." if isinstance(watched, Iterator) else "Pass its tensors."
    return (
        f"{name!r} (a {type(watched).__name__}) holds no tensor. What can be watched is a module, an optimizer, a tree "
        f"of tensors, or anything with a state_dict(). {hint}"
    )


def _is_tree(watched: Any) -> bool:
    return not isinstance(watched, nn.Module | Optimizer) and not _has_state_dict(watched)


def _has_state_dict(watched: Any) -> bool:
    return not isinstance(watched, type) and callable(getattr(watched, "state_dict", None))


def _held(watched: Any, key: str) -> Tensor | None:
    """The tensor that an object keeps for an entry of its state dict: a gradient scaler gives out a number."""
    fields: Mapping[str, Any] = getattr(watched, "__dict__", {})
    found = [fields.get(name) for name in (key, f"_{key}")]
    return next((field for field in found if isinstance(field, Tensor)), None)


def _in_module(name: str, module: nn.Module, seen: set[int]) -> Iterator[Place]:
    for prefix, owner in module.named_modules():
        opening, start = f"{name}.", f"{prefix}." if prefix else ""
        for role, tensors in ((PARAMETERS, owner._parameters), (BUFFERS, owner._buffers)):
            for key, tensor in tensors.items():
                if tensor is not None:
                    yield from _in_tensor(opening, f"{start}{key}", "", role, tensor, seen)


def _in_tensor(opening: str, path: str, closing: str, role: str, tensor: Tensor, seen: set[int]) -> Iterator[Place]:
    if id(tensor) in seen:
        return
    seen.add(id(tensor))
    yield Place(opening, path, closing, role, tensor)
    # Other tensors have no gradient, and warn when asked.
    if tensor.is_leaf and (tensor.requires_grad or tensor.grad is not None):
        yield Place(opening, path, f"{closing}.grad", GRADIENTS, tensor.grad)


def _in_entry(opening: str, path: str, closing: str, role: str, entry: Any, seen: set[int]) -> Iterator[Place]:
    """What one entry of an optimizer or a state dict holds, containers taken apart."""
    if isinstance(entry, Tensor):
        yield from _in_tensor(opening, path, closing, role, entry, seen)
    elif isinstance(entry, Mapping | list | tuple):
        inside = entry.items() if isinstance(entry, Mapping) else enumerate(entry)
        for key, inner in inside:
            name = f"[{key}]" if isinstance(key, int) else f".{key}"
            names = (path, f"{closing}{name}") if closing else (f"{path}{name}", "")
            yield from _in_entry(opening, *names, role, inner, seen)
    else:
        yield Place(opening, path, closing, VALUES, entry)


def remember(places: Iterable[Place]) -> dict[str, Memory]:
    """Copy what is at each place, by name."""
    with torch.no_grad():
        return {
            place.name: Memory(
                place,
                [part.clone() for part in parts(place.value)] if isinstance(place.value, Tensor) else place.value,
            )
            for place in places
        }


def differences(before: Mapping[str, Memory], places: Iterable[Place]) -> dict[str, frozenset[str]]:
    """What became of each place that is not as it was: appeared, disappeared, changed, rebound."""
    now = {place.name: place for place in places}
    kinds = {name: _kinds(memory, now.get(name)) for name, memory in before.items()}
    kinds |= {name: _kinds(None, place) for name, place in now.items() if name not in before}
    return {name: found for name, found in kinds.items() if found}


def _kinds(memory: Memory | None, place: Place | None) -> frozenset[str]:
    old = None if memory is None else memory.place.value
    new = None if place is None else place.value
    if old is None or new is None or memory is None or place is None:
        return frozenset() if old is new else frozenset({"appeared" if old is None else "disappeared"})
    if not isinstance(old, Tensor) or not isinstance(new, Tensor):
        same = old is new or (isinstance(old, _PLAIN) and isinstance(new, _PLAIN) and old == new)
        return frozenset() if same else frozenset({"changed"})
    found: set[str] = set()
    if not same_content(memory.content, parts(new)):
        found.add("changed")
    # A state dict may make its tensors anew each time it is asked.
    if old is not new and place.role != ENTRIES:
        found.add("rebound")
    return frozenset(found)


def parts(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that hold the content of one of any kind; none when there is no content."""
    if is_lazy(tensor) or tensor.is_meta:
        return []
    take_apart = getattr(tensor, "__tensor_flatten__", None)
    if take_apart is not None:
        return list(chain.from_iterable(parts(getattr(tensor, name)) for name in take_apart()[0]))
    if tensor.layout == torch.sparse_coo:
        return [tensor._indices().detach(), tensor._values().detach()]
    if tensor.layout in {torch.sparse_csr, torch.sparse_bsr}:
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values().detach()]
    if tensor.layout in {torch.sparse_csc, torch.sparse_bsc}:
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values().detach()]
    return [tensor.detach().resolve_conj().resolve_neg()]


def stored(tensor: Tensor) -> list[Tensor]:
    """The tensor itself, or the parts of one of another kind, as far as they lie in a storage."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    if is_lazy(tensor):
        return []
    is_whole = tensor.layout is torch.strided and not hasattr(tensor, "__tensor_flatten__")
    plain = [tensor] if is_whole else parts(tensor)
    return [part for part in plain if torch._C._has_storage(part)]


def same_content(old: list[Tensor], new: list[Tensor]) -> bool:
    return len(old) == len(new) and all(map(_same_bits, old, new))


def _same_bits(old: Tensor, new: Tensor) -> bool:
    # nan equals itself here, and -0.0 is another number than 0.0.
    if (old.shape, old.dtype, old.device) != (new.shape, new.dtype, new.device):
        return False
    return torch.equal(_bytes(old), _bytes(new))


def _bytes(tensor: Tensor) -> Tensor:
    # A copy where the strides are odd; a length of 1 may have any stride, and then is no memory format's.
    if not tensor.is_contiguous() or (tensor.ndim and tensor.stride(-1) != 1):
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    return tensor.view(-1).view(torch.uint8)
