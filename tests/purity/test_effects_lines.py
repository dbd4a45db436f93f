"""`effects.lines()` makes a phase of each statement, and leaves tracers as they were."""

import asyncio
import gc
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import functional_train as ft


def read_of(effects: ft.Effects) -> list[str]:
    """The phases that read something."""
    return [phase for phase in effects.phases if effects.reads[phase]]


def written_of(effects: ft.Effects) -> list[str]:
    return [phase for phase in effects.phases if effects.writes[phase]]


def test_each_statement_is_a_phase() -> None:
    """Statements, heads of compound ones, and statements of several lines each have one phase, in order of running."""
    x, y = torch.ones(2), torch.ones(2)
    pairs = [(x, y)]
    with ft.record_effects(x=x, y=y) as effects, effects.lines():
        total = x.sum()  # what stands behind it is no part of it
        for one, other in pairs:
            one.add_(
                other,
                alpha=2.0,
            )
        if total > 0.0:
            scaled = [y * factor for
                      factor in (1.0, 2.0)]  # fmt: skip
        elif total < 0.0:
            y.zero_()
        while total > 0.0:
            total = total - 2.0
        with torch.no_grad():
            del scaled
    assert effects.phases == (
        "total = x.sum()",
        "for one, other in pairs:",
        "one.add_(",
        "if total > 0.0:",
        "scaled = [y * factor for",
        "while total > 0.0:",
        "total = total - 2.0",
        "with torch.no_grad():",
        "del scaled",
    )
    assert {phase: names for phase, names in effects.reads.items() if names} == {
        "total = x.sum()": {"x"},
        "one.add_(": {"x", "y"},
        "scaled = [y * factor for": {"y"},
    }
    assert {phase: names for phase, names in effects.writes.items() if names} == {"one.add_(": {"x"}}


def test_errors_matches_and_definitions() -> None:
    """Handlers, cases and definitions are statements too; what a function does belongs to the line that calls it."""
    x = torch.ones(2)
    with ft.record_effects(x=x) as effects, effects.lines():
        try:
            x.add_(1.0)
            raise ValueError
        except ValueError:
            x.add_(2.0)
        finally:
            x.add_(3.0)
        match x.ndim:
            case 1 if x.sum() > 0.0:
                x.add_(4.0)
            case _:
                x.add_(5.0)

        def change() -> None:
            x.add_(6.0)

        change()
        x.sub_(1.0); x.sub_(2.0)  # noqa: E702  # fmt: skip
        assert callable(change), """text # and
        more text"""
    assert written_of(effects) == [
        "x.add_(1.0)",
        "x.add_(2.0)",
        "x.add_(3.0)",
        "x.add_(4.0)",
        "change()",
        "x.sub_(1.0); x.sub_(2.0)",
    ]
    assert "case 1 if x.sum() > 0.0:" in read_of(effects)
    assert effects.phases[-1] == 'assert callable(change), """text # and'
    assert effects.reads["def change() -> None:"] == set()


def test_turns_of_a_loop_are_one_phase_each() -> None:
    """A statement that runs again begins a phase again, also where it is alone in its loop."""
    values = {"x": torch.zeros(2)}
    count = 0
    with ft.record_effects(values=values) as effects, effects.lines():
        while (count := count + 1) < 3:
            values["x"] = values["x"] + 1.0
    # In the second turn it reads what the first has made.
    assert effects.reads['values["x"] = values["x"] + 1.0'] == {"values/x"}
    assert effects.changes['values["x"] = values["x"] + 1.0'] == {"values/x": {"changed", "rebound"}}


def test_a_body_on_the_line_of_its_head() -> None:
    """A `with` statement of one line has one phase."""
    x = torch.ones(2)
    with ft.record_effects(x=x) as effects, effects.lines(): x.add_(1.0); x.sub_(1.0)  # noqa: E701, E702  # fmt: skip
    assert effects.phases == ("x.add_(1.0); x.sub_(1.0)",)
    assert effects.reads == {"x.add_(1.0); x.sub_(1.0)": {"x"}}


def test_modes_and_phases_inside() -> None:
    """Other phases and dispatch modes may begin in one statement and end in another."""
    x = torch.ones(2, 2)
    with ft.record_effects(x=x) as effects, effects.lines():
        with FlopCounterMode(display=False) as flops:
            product = x @ x
        with effects.phase("inside"):
            x.copy_(product)
        x.sum()
    assert flops.get_total_flops() == 16
    assert read_of(effects) == ["product = x @ x", "x.sum()"]
    assert written_of(effects) == ["inside", "x.copy_(product)"]


def test_nested_and_repeated() -> None:
    """Inside itself it changes nothing, two recordings each have their phases, and later ones go on with them."""
    x = torch.ones(2)
    with ft.record_effects(x=x) as outer, ft.record_effects(again=x) as inner:
        with outer.lines():
            x.add_(1.0)
            with outer.lines():
                x.add_(2.0)
            with inner.lines():
                x.add_(3.0)
        with outer.lines(), inner.lines():
            x.add_(4.0)
    assert written_of(outer) == ["x.add_(1.0)", "x.add_(2.0)", "x.add_(3.0)", "x.add_(4.0)"]
    assert written_of(inner) == ["x.add_(3.0)", "x.add_(4.0)"]
    assert outer.writes["with outer.lines():"] == set()


def test_in_a_function_that_a_line_calls() -> None:
    """The lines of a called function are phases inside that of the line that calls it."""
    x = torch.ones(2)

    def step() -> None:
        with effects.lines():
            x.add_(1.0)
            x.sum()

    with ft.record_effects(x=x) as effects, effects.lines():
        step()
        x.add_(2.0)
    assert written_of(effects) == ["step()", "x.add_(1.0)", "x.add_(2.0)"]
    assert read_of(effects) == ["step()", "x.add_(1.0)", "x.sum()", "x.add_(2.0)"]


def test_only_the_frame_is_followed() -> None:
    """Another call of the same function, meanwhile, has no phases of its own."""
    x = torch.ones(2)

    def work(depth: int) -> None:
        with effects.lines() if depth == 0 else torch.no_grad():
            if depth == 0:
                work(1)
            else:
                x.add_(1.0)

    with ft.record_effects(x=x) as effects:
        work(0)
    assert effects.phases == ("if depth == 0:", "work(1)")
    assert effects.writes["work(1)"] == {"x"}


def test_in_generators_and_coroutines() -> None:
    """A frame that pauses is followed when it goes on."""
    x = torch.ones(2)

    def turns() -> Iterator[Tensor]:
        with effects.lines():
            yield x.sum()
            x.add_(1.0)

    async def main() -> None:
        with effects.lines():
            await asyncio.sleep(0.0)
            x.add_(2.0)

    with ft.record_effects(x=x) as effects:
        list(turns())
        asyncio.run(main())
    assert effects.phases == ("yield x.sum()", "x.add_(1.0)", "await asyncio.sleep(0.0)", "x.add_(2.0)")
    assert written_of(effects) == ["x.add_(1.0)", "x.add_(2.0)"]


def trace_nothing(frame: types.FrameType, event: str, arg: Any) -> Any:
    del frame, event, arg
    return trace_nothing


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("tracer", [None, trace_nothing])
def test_tracers_are_put_back(tracer: Any, fails: bool) -> None:
    """Whatever traced before traces after, also when the body fails; the failing line is on record."""
    x, frame = torch.ones(2), sys._getframe()
    before, before_here = sys.gettrace(), frame.f_trace
    try:
        sys.settrace(tracer)
        frame.f_trace = tracer
        with ft.record_effects(x=x) as effects, ExitStack() as stack:
            if fails:
                stack.enter_context(pytest.raises(ZeroDivisionError))
            with effects.lines():
                assert sys.gettrace() is not tracer
                x.add_(1.0 / (0.0 if fails else float(x.sum())))
        after, after_here = sys.gettrace(), frame.f_trace
    finally:
        sys.settrace(before)
        frame.f_trace = before_here
    assert (after, after_here) == (tracer, tracer)
    assert effects.phases[-1] == "x.add_(1.0 / (0.0 if fails else float(x.sum())))"
    assert written_of(effects) == ([] if fails else [effects.phases[-1]])


def test_a_tracer_that_takes_over_is_left_alone() -> None:
    """A debugger that was started in the body goes on after it."""
    x, frame = torch.ones(2), sys._getframe()
    before, before_here = sys.gettrace(), frame.f_trace
    try:
        with ft.record_effects(x=x) as effects:
            with effects.lines():
                sys.settrace(trace_nothing)
                frame.f_trace = trace_nothing
            after, after_here = sys.gettrace(), frame.f_trace
    finally:
        sys.settrace(before)
        frame.f_trace = before_here
    assert after is after_here is trace_nothing


def test_nothing_is_kept() -> None:
    """What the body's frame held is freed when the frame is."""

    def work() -> weakref.ref[Tensor]:
        x = torch.ones(2)
        with ft.record_effects(x=x) as effects, effects.lines():
            x.add_(1.0)
        kept.append(effects)
        return weakref.ref(x)

    kept: list[ft.Effects] = []
    gone = work()
    gc.collect()
    assert gone() is None
    assert kept[0].writes == {"x.add_(1.0)": {"x"}}


def run_without_source() -> None:
    code = "with ft.record_effects(x=x) as effects, effects.lines():\n    x.add_(1.0)\n"
    exec(code, {"ft": ft, "x": torch.ones(2)})


def enter_by_hand() -> None:
    with ft.record_effects(x=torch.ones(2)) as effects, ExitStack() as stack:
        stack.enter_context(effects.lines())


def come_too_late() -> None:
    with ft.record_effects(x=torch.ones(2)) as effects:
        pass
    with effects.lines():
        pass


ERRORS: dict[str, tuple[Callable[[], None], str]] = {
    "no source": (run_without_source, r"lines\(\) finds no source of its body in '<string>'.* with effects\.phase\("),
    "no with": (enter_by_hand, r"is not the head of a `with` statement.* with effects\.phase\("),
    "too late": (come_too_late, r"lines\(\) comes after the end of the recording"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_uses_are_refused(name: str) -> None:
    """Where statements cannot be told apart the error names the way out, and no tracer stays behind."""
    before = sys.gettrace()
    use, message = ERRORS[name]
    with pytest.raises(ft.StructureError, match=message):
        use()
    assert sys.gettrace() is before
