"""`check_pure`: run a function on examples, and report whatever it does besides computing its result."""

from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any, TypeVar

from torch import Tensor

from functional_train.purity._copies import check_repeatable, copied
from functional_train.purity._locate import first_lines
from functional_train.purity._outside import Outside
from functional_train.purity._run import Run, call_it, differ_by_rounding, listed, named_tensors, same_leaf, same_result
from functional_train.purity.findings import Finding
from functional_train.values._calls import arguments_by_name
from functional_train.values._captured import captured_by
from functional_train.values._watching import is_unwatched
from functional_train.values.errors import PurityError, StructureError
from functional_train.values.tree._structure import leaves

R = TypeVar("R")
# Two bytes with which unfilled memory is filled: zeros, and one that is no number in any floating dtype.
_FILLINGS = (0, 0xFF)
_WRITTEN = ("input written", "captured state written", "gradient written")
_ROUNDS = (
    "a second call with equal arguments rounded in another way: an operation is not deterministic here "
    "(torch.use_deterministic_algorithms)"
)
_DIFFERS = "a second call with equal arguments returned another result"


def check_pure(fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
    """Run a function on examples, and raise if it does anything besides computing its result from its arguments.

    It is found when the function writes to an argument (through views, `.data`, NumPy arrays, `out=`, or an operation
    that hides it), sets `.grad`, adds hooks; draws from a global generator of torch, Python or NumPy, or from one that
    it holds; reads or writes a tensor that is no argument; changes a number, a list or an object that it holds; leaves
    a setting of the process changed; opens a file to write, or starts a process; returns a view of an argument, or
    memory that it never filled; or when a second call differs from the first, as with a clock or a counter.

    The function is called three times, twice of them watched and on copies, and more often where something is found.
    Only when it is known to be pure is it given the arguments themselves. What it holds, and the settings and
    generators of the process, are put back as they were, attributes, lists and dicts included. All this takes several
    times as long as the function, and memory for three copies of the arguments.

    What is not found: what happens in a branch that these examples do not take (repair what is found, and check again);
    a clock that does not reach the result; what is printed, or written to a file by C++; effects of threads that the
    function starts, and objects of other libraries that change inside. A key that is used twice is no impurity;
    `ft.random.debug_key_reuse` finds it.

    Args:
        fn: The function. A function that `compile` returned is checked as what it was compiled from.
        *args: Trees, modules, anything but iterators.
        **kwargs: As `args`.

    Returns:
        What the function returns for these very arguments.

    Raises:
        PurityError: the function is not pure; `findings` has a `Finding` for each impurity, and the message says
            line and fix of each.
        StructureError: `fn` is not callable, or an argument can be read only once, or not be copied.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.check_pure(lambda params, x: (params["w"] * x).sum(), {"w": torch.ones(2)}, torch.ones(2))
        tensor(2.)
        >>> try:
        ...     ft.check_pure(lambda x: torch.nn.functional.dropout(x), torch.ones(2))
        ... except ft.PurityError as error:
        ...     print(error.findings[0].what)
        bernoulli_ draws from the global generator of torch
    """
    if not callable(fn):
        raise StructureError(
            f"check_pure takes a function and its arguments, got a {type(fn).__name__} for the function. Write "
            "check_pure(loss_fn, params, batch)."
        )
    if not is_unwatched():
        raise StructureError(
            "check_pure runs a function by itself: call it outside of torch.func transforms, of compiled functions, "
            "and of dispatch modes, guard() among them."
        )
    check = _Check(_underlying(fn), args, kwargs)
    try:
        return check.run()
    finally:
        check.outside.restore()


def _underlying(fn: Any) -> Callable[..., Any]:
    """What a compiled function was compiled from."""
    is_ours = type(fn).__module__.startswith("functional_train.")
    return fn.__wrapped__ if is_ours and hasattr(fn, "__wrapped__") else fn


class _Check:
    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fn = fn
        self.given = (args, kwargs)
        named = arguments_by_name(fn, args, kwargs)
        check_repeatable(named)
        functions = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, FunctionType)]
        self.captured = captured_by(fn, functions, written=True)
        self.outside = Outside(self.captured, named_tensors(named))

    def run(self) -> Any:
        """Raise if the function is not pure, or else return its result."""
        first = self.run_on_copies(_FILLINGS[0])
        first.call()
        found = [*first.findings, *first.arguments.findings(), *self.outside.findings()]
        found += first.aliases()
        # Reading a tensor that is no argument is certain only when a second call reads it too.
        self.outside.restore()
        second = self.run_on_copies(_FILLINGS[1])
        try:
            second.call()
        except Exception as error:  # noqa: BLE001  # whatever it raises, the first call did not
            what = f"the second call raised {type(error).__name__}: {error}"
            found.append(Finding("second call differs", "", what))
        else:
            # State or a generator that the function holds explains another result; a clock would come on top of it.
            causes = ("captured state written", "randomness")
            is_explained = any(finding.kind in causes for finding in found) and not first.clocks
            if not is_explained and not same_result(first.output, second.output):
                found += self.unequal(first, second)
            found += [*first.uncertain(second), *first.captured_inputs(second)]
        if found:
            found = _together(_without_repetition(self.located(_without_repetition(found))))
            raise PurityError(_message(self.fn, found), tuple(found))
        self.outside.restore()
        return self.plain_call(second.given)

    def run_on_copies(self, filling: int | None) -> Run:
        """Get ready for a call on copies, with what it does not fill filled by a byte."""
        return Run(self.fn, copied(self.given), self.captured, filling)

    def plain_call(self, untouched: Any) -> Any:
        """Call the function as if nothing was checked, on the very arguments, of which these are copies."""
        named = named_tensors(arguments_by_name(self.fn, *self.given))
        versions = [_version(tensor) for _, tensor in named]
        output = call_it(self.fn, *self.given)
        before = dict(named_tensors(arguments_by_name(self.fn, *untouched)))
        for (name, tensor), version in zip(named, versions, strict=True):
            # Other code may run where nothing watches, such as a fused kernel.
            if _version(tensor) != version and not same_leaf(tensor, before[name]):
                found = Finding(
                    "input written", name, f"{name!r} was written to, but only in a call that was not watched"
                )
                raise PurityError(_message(self.fn, [found]), (found,))
        return output

    def unequal(self, first: Run, second: Run) -> Iterator[Finding]:
        """Say why two calls returned different results: what was not filled was filled in two ways."""
        self.outside.restore()
        third = self.run_on_copies(_FILLINGS[0])
        third.call()
        if first.operations.unfilled and same_result(first.output, third.output):
            for line in first.operations.unfilled:
                yield Finding("uninitialized memory", "", "the result depends on memory that was never filled", line)
        else:
            for clock, line in first.clocks:
                yield Finding("second call differs", clock, f"{_DIFFERS}, and {clock}() is called", line)
            if not first.clocks and differ_by_rounding(first.output, second.output):
                yield Finding("second call differs", "rounding", _ROUNDS)
            elif not first.clocks:
                yield Finding("second call differs", "", _DIFFERS)

    def located(self, found: list[Finding]) -> list[Finding]:
        """Run once more to find the lines of what was seen only afterwards."""
        missing = {finding.what: finding.subject for finding in found if not finding.line}
        if not missing:
            return found
        self.outside.restore()
        run = self.run_on_copies(None)
        looked_for = dict(missing)

        def seen() -> Iterator[str]:
            only = set(looked_for.values())
            for finding in [*run.arguments.findings(only), *self.outside.findings(only)] if only else []:
                if looked_for.pop(finding.what, None) is not None:
                    yield finding.what

        lines = first_lines(run.call_unwatched, seen, call_it.__code__)
        return [finding if finding.line else finding._replace(line=lines.get(finding.what, "")) for finding in found]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _without_repetition(found: Iterable[Finding]) -> list[Finding]:
    """Drop what says again, without a line, what another finding of the same kind says of the same subject."""
    unique = list(dict.fromkeys(found))
    with_lines = {(finding.kind, finding.subject) for finding in unique if finding.line}
    return [one for one in unique if one.line or not one.subject or (one.kind, one.subject) not in with_lines]


def _together(found: Iterable[Finding]) -> list[Finding]:
    """What one line writes to is one finding."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in found:
        is_one_of_many = finding.kind in _WRITTEN and finding.line
        groups.setdefault((finding.kind, finding.line) if is_one_of_many else ("", str(finding)), []).append(finding)
    return [_one_of(group) for group in groups.values()]


def _one_of(group: list[Finding]) -> Finding:
    names = list(dict.fromkeys(finding.subject for finding in group))
    if len(group) == 1 or len(names) == 1:
        return group[0]
    shown = listed([repr(name) for name in names] if group[0].kind == "input written" else names)
    return group[0]._replace(subject=", ".join(names), what=f"{shown} are written to")


def _message(fn: Any, found: list[Finding]) -> str:
    name = getattr(fn, "__name__", type(fn).__name__)
    count = "1 impurity" if len(found) == 1 else f"{len(found)} impurities"
    lines = [f"  {place}. {finding}" for place, finding in enumerate(found, start=1)]
    return "\n".join([f"{name} is not pure: {count}", *lines])
