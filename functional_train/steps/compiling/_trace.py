"""From a function of tensors to a graph of torch's core operations, without side effects."""

import contextlib
import logging
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch._inductor.lowering  # pyright: ignore[reportUnusedImport]  # what decomposes pooling
from torch import Tensor
from torch._dynamo.source import ConstantSource
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    GuardOnDataDependentSymNode,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from functional_train.steps.compiling._division import DECOMPOSITIONS
from functional_train.steps.compiling._source import drawing_line, draws_from_numpy, raising_line
from functional_train.values._generators import draws, generators, moved_since
from functional_train.values._lines import running_line
from functional_train.values._operands import LIFTED, operands
from functional_train.values.errors import CompileError

_DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)
# What these compute depends on where numbers lie.
_BOUND_TO_STRIDES = {
    torch.ops.aten.as_strided.default,
    torch.ops.aten.as_strided_copy.default,
    torch.ops.aten.as_strided_scatter.default,
    torch.ops.aten.view.dtype,
    torch.ops.aten.view_as_complex.default,
}


_SET_DATA = vars(Tensor.__base__)["data"].__set__


class Traced(NamedTuple):
    """A graph and what it takes.

    Attributes:
        graph: Its placeholders are the arguments and then the captured tensors; its output is a list.
        fakes: A fake tensor for each placeholder.
        captured: Tensors that the function read without being given them.
        mode: What made the fakes.
    """

    graph: GraphModule
    fakes: list[Tensor]
    captured: list[Tensor]
    mode: FakeTensorMode


def trace(
    fn: Callable[..., Sequence[Tensor]],
    tensors: Sequence[Tensor],
    paths: Sequence[str],
    names: Mapping[int, str],
    dynamic: Collection[int] = (),
    *,
    channels_last: bool = False,
) -> Traced:
    """Record what a function of tensors computes.

    Args:
        fn: From tensors to a list of tensors.
        tensors: What it is called with, of which only shapes, strides, dtypes and devices matter.
        paths: Of the tensors, for messages.
        names: Those of captured tensors, by `id`.
        dynamic: Positions of tensors whose first dimension may be another at other calls.
        channels_last: Whether convolutions on CPU are to have their channels innermost, as Inductor computes them.

    Returns:
        The graph, without operations in place.

    Raises:
        CompileError: the function does what a graph cannot hold: control flow that depends on data, a write to an
            argument, a draw from a global generator, a captured tensor that requires grad.
    """
    sizes = ShapeEnv(allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=sizes)
    fakes: list[Tensor] = [
        _with_any_length(mode, tensor, paths[place]) if place in dynamic else _fixed(mode, tensor)
        for place, tensor in enumerate(tensors)
    ]
    watch = _Watch(fakes, paths, names)

    def watched(*leaves: Tensor) -> Sequence[Tensor]:
        with watch, _NoAssignedData():
            return fn(*leaves)

    def record() -> GraphModule:
        with torch.compiler._compile_session_context(), mode, _explained():
            return make_fx(watched, tracing_mode="real", _allow_non_fake_inputs=True)(*fakes)

    before = generators()
    recorded = record()
    moved = moved_since(before)
    # Another thread may have moved them, so that it is looked for who did.
    line = drawing_line(record) if "random" in moved else None
    if line is None and "numpy.random" in moved and draws_from_numpy(record):
        line = "a call of numpy.random"
    if line is not None:
        raise CompileError(
            "the function draws from a global generator of Python or NumPy while it is traced, so that each call has "
            f"the same numbers, in {line}\nDraw with ft.random from a key that the state owns, or pass the numbers."
        )
    captured = _lift_captured(recorded, names)
    fakes += [_fixed(mode, tensor) for tensor in captured]

    graph = _retraced(torch.func.functionalize(_run(recorded), remove="mutations"), fakes, mode, {})
    # Decompositions may lay a result out differently than the operation that a view was taken of did.
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    graph.recompile()
    targets = {node.target for node in graph.graph.nodes}
    if torch.ops.aten.convolution.default not in targets or targets & _BOUND_TO_STRIDES:
        channels_last = False
    run = _ChannelsLast(graph).run if channels_last else _run(graph)
    graph = _retraced(run, fakes, mode, {**select_decomp_table(), **DECOMPOSITIONS})
    graph.graph.eliminate_dead_code()
    return Traced(graph, fakes, captured, mode)


def output_of(graph: Graph) -> Node:
    """The node that returns."""
    return next(iter(reversed(graph.nodes)))


def is_dense(tensor: Tensor) -> bool:
    """Whether each number of a tensor has a place of its own, and there are no gaps between."""
    return torch.ops.aten.is_non_overlapping_and_dense.default(tensor)


# An alias, since the mode keeps weak references for as long as it lives. It is no view and begins where its storage
# does, so that a graph does not depend on which part of what tensor it was traced for.
def _alias(tensor: Tensor) -> Tensor:
    if not tensor._is_view():
        return tensor.detach()
    empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return empty.set_(tensor.untyped_storage(), 0, tensor.shape, tensor.stride())


def _fixed(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    return mode.from_tensor(_alias(tensor), static_shapes=True)


def _with_any_length(mode: FakeTensorMode, tensor: Tensor, path: str) -> Tensor:
    sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (tensor.ndim - 1)]
    context = StatelessSymbolicContext(dynamic_sizes=sizes)
    return mode.from_tensor(_alias(tensor), symbolic_context=context, source=ConstantSource(path))


def _run(graph: GraphModule) -> Callable[..., Any]:
    return lambda *leaves: Interpreter(graph).run(*leaves)


def _retraced(
    fn: Callable[..., Any], fakes: Sequence[Tensor], mode: FakeTensorMode, decompositions: Mapping[Any, Any]
) -> GraphModule:
    with torch.no_grad(), mode:
        return make_fx(fn, dict(decompositions), tracing_mode="real", _allow_non_fake_inputs=True)(*fakes)


class _ChannelsLast(Interpreter):
    """Gives convolutions images whose channels lie innermost, so that what follows is laid out like that too.

    Inductor does so for each convolution by itself: what two of them read, forward and backward, it copies twice.
    """

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.aten.convolution.default and args[0].ndim == 4 and args[0].device.type == "cpu":
            images, weight, *rest = args
            args = (*[x.contiguous(memory_format=torch.channels_last) for x in (images, weight)], *rest)
        return super().call_function(target, args, kwargs)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        returned: Any = super().output(target, args, kwargs)
        module: Any = self.module
        expected: Any = output_of(module.graph).args[0]
        return [_laid_out_as(new, old.meta["val"]) for new, old in zip(returned, expected, strict=True)]


def _laid_out_as(new: Tensor, old: Tensor) -> Tensor:
    if new.stride() == old.stride() or not is_dense(old):
        return new
    order = sorted(range(old.ndim), key=lambda dim: (-old.stride(dim), -old.size(dim)))
    return new.permute(order).contiguous().permute([order.index(dim) for dim in range(old.ndim)])


class _NoAssignedData(TorchFunctionMode):
    """Refuses `x.data = value`, which is no operation, so that a graph would go on with the numbers of before."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _SET_DATA:
            raise CompileError(
                f"`.data` of a tensor is assigned to, which a graph cannot see, in {running_line()}\nMake a new "
                "tensor, or write into this one: x.copy_(value)."
            )
        return func(*args, **(kwargs or {}))


class _Watch(TorchDispatchMode):
    """Sees each operation while tracing, and refuses what a graph would get wrong."""

    def __init__(self, inputs: Sequence[Tensor], paths: Sequence[str], names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.owners = {tensor.untyped_storage()._cdata: path for tensor, path in zip(inputs, paths, strict=True)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if draws(func, args, kwargs or {}):
            whose = "the global generator of torch" if (kwargs or {}).get("generator") is None else "a torch.Generator"
            raise CompileError(
                f"{func.__name__} draws from {whose}, whose draws a graph cannot repeat, in {running_line()}\n"
                "Draw with ft.random from a key that the state owns, or turn the layer's rate to 0."
            )
        if func is torch.ops.aten._local_scalar_dense.default and not isinstance(args[0], FakeTensor):
            raise CompileError(
                f"Python reads a number from {self.names.get(id(args[0]), 'a tensor')}, which is no argument, in "
                f"{running_line()}\nThe graph would hold on to it. Keep it a tensor, or make it a Python number "
                "outside of the function, where a change is seen."
            )
        if func._schema.is_mutable:
            self.check_written(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def check_written(self, func: Any, args: Any, kwargs: Any) -> None:
        for tensor, is_written in operands(func, args, kwargs):
            what = self.owner_of(tensor) if is_written else None
            if what is not None:
                raise CompileError(
                    f"{func.__name__} writes to {what}, in {running_line()}\nCompute a new value instead "
                    "(x = x + 1, not x += 1), or work on x.clone()."
                )

    def owner_of(self, tensor: Tensor) -> str | None:
        """What else sees the memory of a tensor; None where the trace made it."""
        if not isinstance(tensor, FakeTensor):
            return self.names.get(id(tensor), "a tensor") + ", which is no argument"
        path = self.owners.get(tensor.untyped_storage()._cdata)
        return None if path is None else f"the argument {path!r}"


@contextlib.contextmanager
def _explained() -> Generator[None]:
    # It prints each error that the function raises, with a traceback of its own.
    log = logging.getLogger("torch._subclasses.fake_tensor")
    silent, log.disabled = log.disabled, True
    try:
        yield
    except CompileError:
        raise
    except _DATA_DEPENDENT as error:
        raise CompileError(
            "Python's control flow, or the shape of a result, depends on numbers in a tensor, which a graph does not "
            f"know, in {raising_line(error.__traceback__)}\nChoose with torch.where, keep numbers as 0-d tensors "
            "(no .item(), float() or `if tensor`), and mask instead of indexing by a mask. To see a number, return it "
            "as a metric."
        ) from error
    except UnsupportedFakeTensorException as error:
        raise CompileError(f"{error} In {raising_line(error.__traceback__)}") from error
    except Exception as error:
        error.add_note(f"This was raised while the function was traced, in {raising_line(error.__traceback__)}")
        raise
    finally:
        log.disabled = silent


def _lift_captured(recorded: GraphModule, names: Mapping[int, str]) -> list[Tensor]:
    """Make a placeholder of each tensor that the graph holds but was not given."""
    captured: dict[int, tuple[Tensor, Node]] = {}
    last = [node for node in recorded.graph.nodes if node.op == "placeholder"][-1:]
    for node in [node for node in recorded.graph.nodes if node.op == "get_attr"]:
        value: Any = recorded
        for part in node.target.split("."):
            value = getattr(value, part)
        # What was made in the trace from Python numbers is baked in with them.
        if not isinstance(value, Tensor) or (node.users and all(user.target in LIFTED for user in node.users)):
            continue
        if value.requires_grad:
            raise CompileError(
                f"the function reads {names.get(id(value), 'a tensor')}, which requires grad and is no argument: it "
                "would be trained by nobody. Pass it in params (of a module, ft.functionalize(module).params); what is "
                "not to be trained, with requires_grad_(False)."
            )
        if value.is_conj() or value.is_neg():
            raise CompileError(
                f"the function reads {names.get(id(value), 'a tensor')}, a view that negates or conjugates what its "
                "memory holds. Pass it as an argument, or hold x.resolve_conj().resolve_neg()."
            )
        if id(value) not in captured:
            where = recorded.graph.inserting_after(last[0]) if last else recorded.graph.inserting_before()
            with where:
                made = recorded.graph.placeholder(f"captured_{len(captured)}")
            made.meta = dict(node.meta)
            last = [made]
            captured[id(value)] = (value, made)
        node.replace_all_uses_with(captured[id(value)][1])
        recorded.graph.erase_node(node)
    recorded.recompile()
    return [value for value, _ in captured.values()]
