"""Objects of an optimizer class, made as often as need be, and what one remembers when it is tried."""

import contextlib
import copy
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from functional_train.updates.torch_classes._codes import encode
from functional_train.updates.torch_classes._layout import Layout, check_apart, describe
from functional_train.updates.torch_classes._memory import Memory, Owner, memory_of
from functional_train.values import tree
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.tree._structure import is_floating
from functional_train.values.types import Tree

NUM_STEPS = 3


class Source(Protocol):
    """Where fresh objects come from.

    Attributes:
        name: What makes the state of one source that of no other, as text.
        given: Names of the arguments that say how an object is made, and are no memory.
    """

    name: str
    given: Collection[str]

    def picks(self, params: Tree) -> list[bool]:
        """Which leaves of the parameters the object is given."""
        ...

    def make(self, leaves: Sequence[Tensor]) -> tuple[Optimizer, list[Tensor]]:
        """A fresh object and its parameters, which are copies; those that require no grad are given none."""
        ...

    def kept(self, memory: Memory) -> Iterable[tuple[Owner, Any]]:
        """Entries of groups, and attributes, that are memory even if no step writes them."""
        ...

    def advance(self, optimizer: Optimizer) -> None:
        """What follows each step of the object."""
        ...


class Maker:
    """Makes objects of one class with one set of arguments.

    Args:
        cls: A subclass of `Optimizer`.
        kwargs: Its arguments beside the parameters; copied.

    Raises:
        StructureError: it is no such class.
        HyperparameterError: it refuses the arguments.
    """

    def __init__(self, cls: type[Optimizer], kwargs: Mapping[str, Any]) -> None:
        if not isinstance(cls, type) or not issubclass(cls, Optimizer):
            found = cls.__name__ if isinstance(cls, type) else f"a {type(cls).__name__}"
            raise StructureError(
                f"wrap_torch_optimizer takes a subclass of torch.optim.Optimizer, got {found}. Pass the class and its "
                "arguments without the parameters: ft.wrap_torch_optimizer(torch.optim.Rprop, lr=0.1)."
            )
        self.name = f"{cls.__module__}.{cls.__qualname__}"
        self.given: Collection[str] = set(kwargs)
        self._cls, self._kwargs = cls, copy.deepcopy(dict(kwargs))
        # A matrix, which suits most classes; what a class has against other shapes it says at `init`.
        matrix = torch.zeros(2, 2)
        with generators([matrix]) as seed:
            seed(0)
            try:
                self.make([matrix])
            except (TypeError, ValueError) as error:
                raise HyperparameterError(
                    f"{self.name} refuses its arguments {self._kwargs!r}: {error}. They are passed on as they are."
                ) from error

    def picks(self, params: Tree) -> list[bool]:
        """All that are floating."""
        return list(map(is_floating, tree.leaves(params)))

    def make(self, leaves: Sequence[Tensor]) -> tuple[Optimizer, list[Tensor]]:
        """A fresh object and its parameters, which are copies."""
        parameters: list[Tensor] = [nn.Parameter(leaf.detach().clone()) for leaf in leaves]
        optimizer = self._cls(parameters, **copy.deepcopy(self._kwargs))
        train = getattr(optimizer, "train", None)
        if callable(train):
            train()
        return optimizer, parameters

    def kept(self, memory: Memory) -> Iterable[tuple[Owner, Any]]:
        """None: all of them are arguments."""
        del memory
        return ()

    def advance(self, optimizer: Optimizer) -> None:
        """Nothing."""
        del optimizer


@contextlib.contextmanager
def generators(leaves: Sequence[Tensor]) -> Generator[Callable[[int | None], list[Any]]]:
    """The global generators for the time of a block: a function that seeds them, if told to, and gives their state.

    They are put back when the block ends.
    """
    devices = sorted({leaf.device.index for leaf in leaves if leaf.device.type == "cuda"})
    generators = [torch.default_generator, *[torch.cuda.default_generators[index] for index in devices]]
    # Those of Python and NumPy are there only if somebody imported them.
    python, numpy = sys.modules.get("random"), sys.modules.get("numpy.random")

    def seed(number: int | None) -> list[Any]:
        if number is not None:
            for generator in generators:
                generator.manual_seed(number)
            for module in (python, numpy):
                _ = module and module.seed(number % 2**32)
        states = [generator.get_state().tolist() for generator in generators]
        return [*states, python and python.getstate(), numpy and _plain(numpy.get_state())]

    before = python and python.getstate(), numpy and numpy.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield seed
    finally:
        _ = python and python.setstate(before[0]), numpy and numpy.set_state(before[1])


def _plain(state: Any) -> list[Any]:
    return [part.tobytes() if hasattr(part, "tobytes") else part for part in state]


class _RecordedGroup(dict[Any, Any]):
    """A group of parameters that knows which of its entries were written, also with the value that they had."""

    def __init__(self, group: Mapping[Any, Any]) -> None:
        super().__init__(group)
        self.written: set[Any] = set()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.written.add(key)
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]


def tried(
    maker: Source, leaves: Sequence[Tensor], seed: Callable[[int | None], Any]
) -> tuple[Layout, list[Tensor | None]]:
    """What a class remembers after a few steps with made-up gradients, and zeros of the shapes that it has then."""
    failures: list[Exception] = []
    for gradient, closure in ((_dense, False), (_dense, True), (_sparse, False)):
        seed(0)
        try:
            observed, written = _observed(maker, leaves, gradient, closure)
        except Exception as error:  # noqa: BLE001 - what a class raises when it wants something else is its choice
            failures.append(error)
            continue
        layout = describe(maker.name, observed, [*written, *maker.kept(observed[0])], maker.given, closure)
        likely: list[Tensor | None] = [None] * len(layout.places)
        for memory in observed:
            # A list is empty at first.
            likely = [
                old if new is None else torch.zeros_like(new if place.container is None else new[:0])
                for place, old, new in zip(layout.places, likely, encode(layout, memory)[1], strict=True)
            ]
        return layout, likely
    raise StructureError(
        f"{maker.name} cannot be made for these parameters or takes no step on them, with or without a closure: "
        f"{failures[0]}"
    ) from failures[0]


def _observed(
    maker: Source, leaves: Sequence[Tensor], gradient: Callable[[Tensor], Tensor], closure: bool
) -> tuple[list[Memory], list[Any]]:
    optimizer, own = maker.make(leaves)
    groups = [_RecordedGroup(group) for group in optimizer.param_groups]
    optimizer.param_groups[:] = groups

    def fill() -> Any:
        for leaf in own:
            leaf.grad = gradient(leaf.detach()) if leaf.requires_grad else None
        total = [(leaf.detach().abs().square() / 2 + leaf.detach().real).sum().double() for leaf in own]
        return torch.stack(total).sum() if total else torch.zeros(())

    observed = [memory_of(optimizer, own)]
    for _ in range(NUM_STEPS):
        fill()
        with torch.enable_grad():
            optimizer.step(*([fill] if closure else []))
        observed.append(memory_of(optimizer, own))
    check_apart(maker.name, observed[-1], own)
    return observed, [(("group", number), key) for number, group in enumerate(groups) for key in group.written]


def _dense(leaf: Tensor) -> Tensor:
    return leaf + 1


def _sparse(leaf: Tensor) -> Tensor:
    # Said outright, since torch warns where a default decides.
    everywhere = torch.ones_like(leaf).nonzero().T
    return torch.sparse_coo_tensor(everywhere, (leaf + 1).reshape(-1), leaf.shape, check_invariants=False)
