"""What `compile` returns: it finds the variant for a call, or has it made, and moves the state underneath."""

import logging
import operator
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from functional_train.steps.compiling._donate import Holdings, consume, is_struct
from functional_train.steps.compiling._signature import (
    check_suited,
    differences,
    is_open,
    layouts,
    lengths_aside,
    paths_of,
    resolved,
    shortened,
)
from functional_train.steps.compiling.report import CacheInfo, CompileReport, note_when_long
from functional_train.steps.state import TrainState, check_untouched, moved_state, watched_leaves
from functional_train.values._lines import is_users
from functional_train.values._settings import settings
from functional_train.values._watching import is_unwatched
from functional_train.values.errors import OwnershipError, StructureError
from functional_train.values.tree._structure import flatten, unflatten

if TYPE_CHECKING:
    from functional_train.steps.compiling._entry import Entry

_MAX_VARIANTS = 64
_MANY_VARIANTS = 8
_log = logging.getLogger("functional_train.compile")
# Tracers change settings of the process.
_TRACING = threading.RLock()
# The states that threads are moving right now, by id.
_MOVING: dict[int, object] = {}


class _Key(NamedTuple):
    first: Any
    first_layouts: tuple[Any, ...]
    rest: Any
    rest_layouts: tuple[Any, ...]
    settings: tuple[Any, ...]


class _Owned(NamedTuple):
    """What a state remembers that a donating function made: nobody else has its buffers, and they fit this variant."""

    owner: "Compiled"
    holdings: Holdings
    key: _Key
    entry: "Entry"
    num_attributes: int

    def fits(self, state: Any) -> bool:
        """Whether a state has still nothing but these leaves."""
        if len(vars(state)) != self.num_attributes:
            return False
        return not self.holdings.is_mutable or _are_same(flatten(state)[0], self.holdings.leaves)


class _Usual(NamedTuple):
    """The last call of a function that moves nothing, and of whose arguments none is a struct."""

    structure: Any
    layouts: tuple[Any, ...]
    settings: tuple[Any, ...]
    entry: "Entry"


class Compiled:
    """A function as `compile` returns it; called like the function it was made of.

    Attributes:
        donates: Whether a call moves its first argument into the result.

    Example:
        >>> import functional_train as ft, torch
        >>> double = ft.compile(lambda x: 2 * x, backend="eager")
        >>> double(torch.ones(2)), double
        (tensor([2., 2.]), compile(<lambda>))
    """

    def __init__(self, fn: Callable[..., Any], donate: bool, dynamic: bool, backend: str) -> None:
        self.__wrapped__ = fn
        self.__name__: str = getattr(fn, "__name__", type(fn).__name__)
        self.__doc__ = fn.__doc__
        self.donates = donate
        self._dynamic = dynamic
        self._backend = backend
        self._entries: OrderedDict[_Key, Entry] = OrderedDict()
        self._reports: list[CompileReport] = []
        self._usual: _Usual | None = None
        self._hits = 0
        self._told = False

    def __deepcopy__(self, memo: Any) -> "Compiled":
        return self  # as functions are

    def __repr__(self) -> str:
        return f"compile({self.__name__}{', donate=True' if self.donates else ''})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function for these arguments, compiled where nothing batches, differentiates or traces the call."""
        if not is_unwatched():
            return self.__wrapped__(*args, **kwargs)
        if not self.donates:
            return self._run(args, kwargs, None) if kwargs or self._usual is None else self._again(args, self._usual)
        if not args or not is_struct(args[0]):
            raise StructureError(
                f"{self!r} takes the state it moves as first argument: a TrainState or another ft.struct, got "
                f"{type(args[0]).__name__ if args else 'none by position'}. A plain container cannot say that it was "
                "consumed; declare an ft.struct, or leave donate out."
            )
        place, claim = id(args[0]), object()
        if _MOVING.setdefault(place, claim) is not claim:
            raise OwnershipError("this state is being moved by another thread. Give each thread a state of its own.")
        try:
            return self._donate(args, kwargs, sys._getframe(1))
        finally:
            del _MOVING[place]

    def _donate(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], caller: FrameType) -> Any:
        state = args[0]
        owned = _owned(state)
        if owned is not None and owned.owner is self and owned.fits(state):
            rest, structure = flatten((args[1:], kwargs))
            rest = resolved(rest)
            key, entry = owned.key, owned.entry
            if (
                structure == key.rest
                and self._layouts(rest) == key.rest_layouts
                and settings() == key.settings
                and not entry.changes()
                and owned.holdings.unseen()
                and not _any_requires_grad(rest)
                and (entry.fits is None or entry.fits(_tensors(owned.holdings.leaves + rest)))
            ):
                self._hits += 1
                return self._move(state, owned, rest, caller)
        return self._run(args, kwargs, caller)

    def _again(self, args: tuple[Any, ...], usual: _Usual) -> Any:
        """Most calls are like the last one, which is seen at a glance."""
        leaves, structure = flatten(args)
        entry = usual.entry
        if (
            structure == usual.structure
            and self._layouts(leaves) == usual.layouts
            and settings() == usual.settings
            and not entry.changes()
            and resolved(leaves) is leaves
            and not _any_requires_grad(leaves)
            and (entry.fits is None or entry.fits(_tensors(leaves)))
        ):
            self._hits += 1
            return entry.rebuilt(leaves, entry.run([*[leaves[place] for place in entry.given], *entry.captured]))
        return self._run(args, {}, None)

    def _layouts(self, leaves: list[Any]) -> tuple[Any, ...]:
        found = layouts(leaves)
        return lengths_aside(found) if self._dynamic else found

    def cache_info(self) -> CacheInfo:
        """How often variants were found and made."""
        return CacheInfo(self._hits, len(self._reports), _MAX_VARIANTS, len(self._entries))

    def reports(self) -> list[CompileReport]:
        """What making each variant took, and why, in order."""
        return list(self._reports)

    def _move(self, state: Any, owned: _Owned, rest: list[Any], caller: FrameType) -> Any:
        """The usual call: all buffers are ours, so the new state is the old one's fields with other numbers in them."""
        entry = owned.entry
        check_untouched(state)
        arguments = [*owned.holdings.leaves, *_tensors(rest), *entry.captured]
        try:
            results = entry.run(arguments)
        except BaseException:
            consume(state, repr(self), _place(caller), raised=True)
            raise
        new = moved_state(state)
        consume(state, repr(self), _place(caller))
        return entry.beside(new, results)

    def _run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], caller: FrameType | None) -> Any:
        """Any call: buffers that somebody else can see are copied first."""
        state = args[0] if args else ()
        check_untouched(state)
        first, first_structure = _leaves_of(state)
        rest, rest_structure = flatten((args[1:], dict(kwargs)))
        # Asked before anything is traced, which takes references of its own.
        ours = _unseen(state, first) if caller is not None else [False] * len(first)
        views = (first, rest)
        first, rest = resolved(first), resolved(rest)
        if first is not views[0] or rest is not views[1]:
            others, kwargs = unflatten(rest_structure, rest)
            args = (unflatten(first_structure, first), *others) if args else ()
        if _any_requires_grad(first) or _any_requires_grad(rest):
            self._tell_uncompiled(args, kwargs)
            return self.__wrapped__(*args, **kwargs)
        # The state of a step keeps its layout; of other functions the first argument is data like the rest.
        first_layouts = layouts(first) if is_struct(state) else self._layouts(first)
        key = _Key(first_structure, first_layouts, rest_structure, self._layouts(rest), settings())
        made = len(self._reports)
        entry = self._entry(key, args, kwargs)
        if entry.fits is not None and not entry.fits(_tensors([*first, *rest])):
            key = key._replace(first_layouts=layouts(first), rest_layouts=layouts(rest))
            entry = self._entry(key, args, kwargs, "the code for any length does something else for these lengths")
        self._hits += len(self._reports) == made
        written = {*entry.over.values()} - entry.same
        moved = caller is not None and any(ours[place] for place in written)
        copied = {place for place in written if not ours[place]}
        if caller is not None and copied and _log.isEnabledFor(logging.DEBUG):
            self._tell_copied(paths_of(self.__wrapped__, args, kwargs), sorted(copied), len(written))
        buffers = [leaf.clone() if place in copied else leaf for place, leaf in enumerate(first)]
        every = [*buffers, *rest]
        try:
            results = entry.run([*[every[place] for place in entry.given], *entry.captured])
        except BaseException:
            if moved:
                consume(state, repr(self), _place(caller), raised=True)
            raise
        out = entry.rebuilt(every, results)
        if caller is None and not kwargs and not is_struct(state):
            leaves, structure = flatten(args)
            found = self._layouts(leaves)
            # Code for these lengths alone is not what is to be taken for any.
            if found == (*key.first_layouts, *key.rest_layouts):
                self._usual = _Usual(structure, found, key.settings, entry)
        if caller is not None:
            consume(state, repr(self), _place(caller))
            new = out if entry.whole else out[0]
            kept, _ = _leaves_of(new)
            if entry.moves_all(kept) and (isinstance(new, TrainState) or not hasattr(new, "__post_init__")):
                vars(new)["_owned"] = _Owned(self, Holdings(new, kept), key, entry, len(vars(new)) + 1)
        return out

    def _entry(self, key: _Key, args: tuple[Any, ...], kwargs: Mapping[str, Any], unfit: str = "") -> "Entry":
        with _TRACING:
            found = self._entries.get(key)
            changed = [] if found is None else found.changes()
            if found is not None and not changed:
                self._entries.move_to_end(key)
                return found
            paths = paths_of(self.__wrapped__, args, kwargs)
            check_suited([*key.first_layouts, *key.rest_layouts], paths)
            cause = "; ".join(changed) or unfit or self._cause(key, [repr(path) for path in paths])
            with note_when_long(repr(self)):
                # What traces takes seconds to import, and much memory.
                from functional_train.steps.compiling._entry import make_entry

                described = [*key.first_layouts, *key.rest_layouts]
                lengths = {place for place, layout in enumerate(described) if is_open(layout)}
                entry = make_entry(self.__wrapped__, args, kwargs, self._backend, lengths)
            if self.donates and not entry.over:
                raise StructureError(
                    f"{self!r} moves its first argument into what it returns, so it must return the new state alone or "
                    "first in a tuple, with the structure of the old one. Leave donate out for other functions."
                )
            self._entries[key] = entry
            self._entries.move_to_end(key)
            if len(self._entries) > _MAX_VARIANTS:
                self._entries.popitem(last=False)
                self._usual = None
            self._reports.append(CompileReport(cause, *entry.seconds, entry.operations))
            _log.info(
                "compiled %s, variant %d: %s (traced in %.1f s, lowered in %.1f s, loaded in %.1f s)",
                *(self.__name__, len(self._reports), cause, *entry.seconds),
            )
            if len(self._reports) == _MANY_VARIANTS:
                warnings.warn(
                    f"{self!r} was compiled {_MANY_VARIANTS} times, last because {cause}. Keep shapes and constants "
                    "the same from call to call (pad or drop the last batch; pass changing numbers as 0-d tensors); "
                    "reports() lists all causes.",
                    RuntimeWarning,
                    stacklevel=4,
                )
            return entry

    def _cause(self, key: _Key, paths: list[str]) -> str:
        if not self._entries:
            return "first call"
        last = next(reversed(self._entries))
        for old, new, which in ((last.first, key.first, "first argument"), (last.rest, key.rest, "other arguments")):
            if old != new:
                return f"the structure of the {which} was {shortened(old)} and is {shortened(new)}"
        old, new = (one.first_layouts + one.rest_layouts for one in (last, key))
        found = [*differences(old, new, paths), *differences(last.settings, key.settings)]
        return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")

    def _tell_copied(self, paths: list[str], places: list[int], of: int) -> None:
        some = ", ".join([repr(paths[place]) for place in places[:3]])
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        _log.debug(
            "%r copied %d of the %d leaves that it writes over, which something else can see (another name, a view, a "
            "list, an output that a notebook keeps): %s%s",
            *(self, len(places), of, some, more),
        )

    def _tell_uncompiled(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self._told:
            self._told = True
            leaves = flatten((args, dict(kwargs)))[0]
            pairs = zip(paths_of(self.__wrapped__, args, kwargs), leaves, strict=True)
            path = next(path for path, leaf in pairs if isinstance(leaf, Tensor) and leaf.requires_grad)
            _log.warning(
                "%r runs as it is, uncompiled: %r requires grad, and a graph around it must not be cut. Compile the "
                "function that takes the gradient, or pass values that require none.",
                *(self, path),
            )


def _owned(state: Any) -> _Owned | None:
    return vars(state).get("_owned") if is_struct(state) else None


def _leaves_of(state: Any) -> tuple[list[Any], Any]:
    """The leaves, as the list of them that the state has itself where it has one, and the structure."""
    leaves, structure = flatten(state)
    owned = _owned(state)
    known = watched_leaves(state) if owned is None else owned.holdings.leaves
    # A dict inside may have been given others.
    return (known if known is not None and _are_same(known, leaves) else leaves), structure


def _are_same(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _unseen(state: Any, leaves: list[Any]) -> list[bool]:
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        return [False] * len(leaves)
    owned = _owned(state)
    if owned is not None and owned.holdings.leaves is leaves:
        return owned.holdings.unseen_leaves()
    return Holdings(state, leaves).unseen_leaves()


def _tensors(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _any_requires_grad(leaves: list[Any]) -> bool:
    return any(leaf.requires_grad for leaf in leaves if isinstance(leaf, Tensor))


def _place(frame: FrameType | None) -> tuple[Any, int] | None:
    """The user's line that a call came from, be it by way of a loop of ours."""
    while frame is not None and not is_users(frame):
        frame = frame.f_back
    return None if frame is None else (frame.f_code, frame.f_lineno)
