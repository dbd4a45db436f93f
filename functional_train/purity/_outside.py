"""What a function could change besides its arguments: as it was, what became of it, and back to what it was."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from functional_train.purity._held import Held
from functional_train.purity._watch import GRADIENTS, Memory, Place, differences, parts, remember, stored
from functional_train.purity.findings import Finding
from functional_train.values._captured import Captured
from functional_train.values._generators import generators, moved_since, put_back
from functional_train.values._settings import SETTINGS, restore_settings, settings

_HOOKS_OF_TENSORS = ("_backward_hooks", "_post_accumulate_grad_hooks")
GRADIENT_OF = "the gradient of "
LEFT_MODE = "a dispatch mode was left active"
# Libraries below set these for themselves when they are first used.
_OTHERS_VARIABLES = ("TORCH", "PYTORCH", "TRITON", "KMP", "OMP", "CUDA")


class Facts(NamedTuple):
    """What a tensor is, besides its numbers."""

    requires_grad: bool
    shape: tuple[int, ...] | None
    strides: tuple[int, ...]
    num_hooks: int


def facts(tensor: Tensor) -> Facts:
    """Look at a tensor."""
    num_hooks = sum(len(getattr(tensor, name, None) or ()) for name in _HOOKS_OF_TENSORS)
    if is_lazy(tensor):
        return Facts(tensor.requires_grad, None, (), num_hooks)
    is_strided = tensor.layout is torch.strided
    return Facts(tensor.requires_grad, tuple(tensor.shape), tensor.stride() if is_strided else (), num_hooks)


def differing_facts(name: str, old: Facts, new: Facts, kind: str = "input written") -> Iterator[Finding]:
    """Say what became of a tensor, without its numbers."""
    if new.num_hooks != old.num_hooks:
        yield Finding("hook", name, f"{new.num_hooks - old.num_hooks:+d} hook on {name!r}")
    # A lazy one has no shape.
    for field in ("requires_grad", "shape", "strides") if old.shape is not None else ():
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            yield Finding(kind, name, f"{field} of {name!r} was {before} and is {after}")


def places_of(names: Iterable[tuple[str, Tensor]]) -> list[Place]:
    """The numbers and the gradients of tensors."""
    found: list[Place] = []
    for name, tensor in names:
        found.append(Place("", name, "", "tensors", tensor))
        if tensor.is_leaf:
            found.append(Place(GRADIENT_OF, name, "", GRADIENTS, tensor.grad))
    return found


class Outside:
    """What a function holds, and what the process does: remembered when this is made.

    Args:
        captured: What the function holds.
        named: Its arguments' tensors by name, which it may hold too.
    """

    def __init__(self, captured: Captured, named: list[tuple[str, Tensor]]) -> None:
        # A caller's tensor can change behind its copy only where the function or NumPy holds it too.
        own = [
            (f"{name!r} as the caller holds it", tensor)
            for name, tensor in named
            if id(tensor) in captured.names or is_lent(tensor)
        ]
        given = {id(tensor) for _, tensor in own}
        held = {id(tensor): tensor for tensor in captured.tensors if id(tensor) not in given}
        self.tensors = list(_with_names_once([*[(captured.names[key], held[key]) for key in held], *own]))
        self.before = remember(places_of(self.tensors))
        self.held = Held(captured, "captured state written", ", which is no argument,")
        self.facts = {name: facts(tensor) for name, tensor in self.tensors}
        self.settings = settings()
        self.generators = generators()
        self.environment = _environment()
        self.depth = torch._C._len_torch_dispatch_stack()

    def findings(self, only: AbstractSet[str] | None = None) -> Iterator[Finding]:
        """What is not as it was.

        Args:
            only: The subjects that are looked at; None is all of them.
        """
        before, places = chosen(self.before, places_of(self.tensors), only)
        for name, kinds in differences(before, places).items():
            if name.startswith(GRADIENT_OF):
                yield Finding("gradient written", name, f"{name} {' and '.join(sorted(kinds))}")
            else:
                yield Finding("captured state written", name, f"{name}, which is no argument, changed")
        for name, tensor in self.tensors:
            if only is None or name in only:
                yield from differing_facts(name, self.facts[name], facts(tensor), "captured state written")
        yield from self.held.findings(only)
        for name, old, new in zip(SETTINGS, self.settings, settings(), strict=True):
            if old != new:
                yield Finding("setting", name, f"{name} was {old!r} and is {new!r}")
        if torch._C._len_torch_dispatch_stack() != self.depth:
            yield Finding("setting", "dispatch modes", LEFT_MODE)
        if only is None or not only.isdisjoint(_ENVIRONMENT):
            for name, old, new in zip(_ENVIRONMENT, self.environment, _environment(), strict=True):
                if old != new:
                    yield Finding("setting", name, f"{name} was changed")
        if only is None or not only.isdisjoint(self.generators):
            for name in moved_since(self.generators):
                yield Finding("randomness", name, f"the global generator of {name} moved")

    def restore(self) -> None:
        """Put back numbers, gradients, hooks, settings, generators, and the contents of containers and attributes."""
        pop_modes(self.depth)
        restore_settings(self.settings)
        with torch.no_grad():
            for name, tensor in self.tensors:
                memory = self.before[name]
                if differences({name: memory}, [memory.place._replace(value=tensor)]):
                    _write_back(tensor, memory.content)
                if tensor.is_leaf and tensor.requires_grad != self.facts[name].requires_grad:
                    tensor.requires_grad_(self.facts[name].requires_grad)
                gradient = self.before.get(f"{GRADIENT_OF}{name}")
                if gradient is not None:
                    _restore_gradient(tensor, gradient)
        put_back(self.generators)
        variables, folder = self.environment
        now = _environment()
        if now[0] != variables:
            for name in now[0].keys() - variables.keys():
                del os.environ[name]
            os.environ.update(variables)
        if now[1] != folder:
            os.chdir(folder)
        self.held.restore()


_ENVIRONMENT = ("os.environ", "the working directory")


def _environment() -> tuple[dict[str, str], Path]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS_VARIABLES)}, Path.cwd()


def is_lent(tensor: Tensor) -> bool:
    """Whether a tensor's memory belongs to NumPy, or whoever else made it."""
    return any(not part.untyped_storage().resizable() for part in stored(tensor))


def _with_names_once(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    seen: Counter[str] = Counter()
    for name, tensor in named:
        seen[name] += 1
        yield (name if seen[name] == 1 else f"{name} ({seen[name]})"), tensor


def pop_modes(depth: int) -> None:
    """End the dispatch modes above a depth."""
    while torch._C._len_torch_dispatch_stack() > depth:
        torch._C._pop_torch_dispatch_stack(None)


def chosen(
    before: Mapping[str, Memory], places: Iterable[Place], only: AbstractSet[str] | None
) -> tuple[Mapping[str, Memory], list[Place]]:
    """Those with the given names; None is all of them."""
    if only is None:
        return before, list(places)
    named = {name: memory for name, memory in before.items() if name in only}
    return named, [place for place in places if place.name in only]


def _write_back(tensor: Tensor, content: list[Tensor]) -> None:
    if tensor.layout is torch.sparse_coo:
        for part, old in zip(parts(tensor), content, strict=True):
            part.copy_(old)
        return
    if len(content) == 1 and tensor.layout is torch.strided:
        if tensor.shape == content[0].shape and tensor.dtype == content[0].dtype:
            tensor.data.copy_(content[0])
        else:
            tensor.data = content[0].clone()


def _restore_gradient(tensor: Tensor, memory: Memory) -> None:
    gradient = memory.place.value
    if gradient is None:
        tensor.grad = None
    elif tensor.grad is not gradient or differences({memory.place.name: memory}, [memory.place]):
        _write_back(gradient, memory.content)
        tensor.grad = gradient
