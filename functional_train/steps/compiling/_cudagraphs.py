"""CUDA graphs: the kernels of a call recorded once, and then launched together."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.steps.compiling._lower import Run, run_by_inductor
from functional_train.steps.compiling._pool import extent_of
from functional_train.steps.compiling._trace import Traced
from functional_train.values.errors import CompileError

Record = Callable[[Callable[[], Sequence[Any]]], tuple[Callable[[], None], Sequence[Any]]]
"""From what launches kernels to what launches them again, and the results that this writes each time."""

_MOST_RECORDINGS = 8


def run_by_cudagraphs(traced: Traced) -> Run:
    """The graph as machine code whose kernels are launched in one go, from the second call on the same state on."""
    devices = {tensor.device for tensor in traced.fakes}
    if len(devices) != 1 or next(iter(devices)).type != "cuda":
        raise CompileError(
            'backend="cudagraphs" records kernels of one CUDA device, and the tensors are on '
            f"{', '.join(sorted(map(str, devices))) or 'none'}. Move state and batch there, or use "
            'backend="inductor".'
        )
    places = [node for node in traced.graph.graph.nodes if node.op == "placeholder"]
    written = {
        places.index(node.args[0]) for node in traced.graph.graph.nodes if node.target is torch.ops.aten.copy_.default
    }
    lasting = {*written, *range(len(places) - len(traced.captured), len(places))}
    return Replayed(run_by_inductor(traced), lasting, record_on_cuda)


def record_on_cuda(launch: Callable[[], Sequence[Any]]) -> tuple[Callable[[], None], Sequence[Any]]:
    """Record on the current device. Nothing is computed yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = launch()
    return graph.replay, results


class _Recording(NamedTuple):
    replay: Callable[[], None]
    inputs: dict[int, Tensor]
    results: Sequence[Any]


class Replayed:
    """A run that is recorded for each place in memory where its lasting arguments lie.

    Recordings hold no reference to those, which a state owns, so that it can still be seen that nobody else does.

    Args:
        run: What launches kernels. It writes to lasting arguments only.
        lasting: Positions of arguments that are read and written where they lie; others are copied to where they lay
            when the call was recorded.
        record: How a launch is recorded.
    """

    def __init__(self, run: Run, lasting: Collection[int], record: Record) -> None:
        self._run = run
        self._lasting = sorted(lasting)
        self._record = record
        self._recordings: OrderedDict[tuple[int, ...], _Recording] = OrderedDict()
        self._last: tuple[int, ...] | None = None

    def __call__(self, arguments: list[Tensor]) -> Sequence[Any]:
        """Launch for these arguments. The first call on a state warms up, so it is not recorded."""
        where = tuple([arguments[place].data_ptr() for place in self._lasting])
        found = self._recordings.get(where)
        if found is None and where != self._last:
            self._last = where
            return self._run(arguments)
        given = list(arguments)
        arguments.clear()
        if found is None:
            found = self._recorded(where, given)
        else:
            self._recordings.move_to_end(where)
            for place, tensor in found.inputs.items():
                tensor.copy_(_memory_of(given[place]))
        found.replay()
        return [result.clone() if isinstance(result, Tensor) else result for result in found.results]

    def _recorded(self, where: tuple[int, ...], given: list[Tensor]) -> _Recording:
        lasting = {*self._lasting}
        inputs = {place: _memory_of(tensor).clone() for place, tensor in enumerate(given) if place not in lasting}
        filled = [
            inputs[place].as_strided(tensor.shape, tensor.stride()) if place in inputs else tensor
            for place, tensor in enumerate(given)
        ]
        replay, results = self._record(lambda: self._run([*filled]))
        made = self._recordings[where] = _Recording(replay, inputs, results)
        if len(self._recordings) > _MOST_RECORDINGS:
            self._recordings.popitem(last=False)
        return made


def _memory_of(tensor: Tensor) -> Tensor:
    """All numbers from the first to the last of a tensor, gaps included: code relies on its strides."""
    return tensor.as_strided((extent_of(tensor.shape, tensor.stride()),), (1,))
