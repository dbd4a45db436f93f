"""From a graph to code: the new state is written over the old one, and scalars are computed once."""

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP

from functional_train.steps.compiling._pool import Pool
from functional_train.steps.compiling._products import inline_products, lower_product
from functional_train.steps.compiling._trace import Traced, is_dense, output_of
from functional_train.values.errors import CompileError

Run = Callable[[list[Tensor]], Sequence[Any]]
"""Takes a list of arguments, which it empties, and returns what the graph returns."""

_aten = torch.ops.aten
# Each takes longer than reading a number from memory, and would be repeated for every vector of what it is spread over.
_SLOW = frozenset(
    {"pow", "exp", "expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "sigmoid", "erf", "sqrt", "rsqrt", "atan2"}
)
_FEW = 4096
# In the code that Inductor generates, what allocates; and from how many bytes of one tensor its memory is kept.
_ALLOCATOR, _WORTH_KEEPING = "empty_strided_cpu", 1 << 20
_library = torch.library.Library("functional_train", "FRAGMENT")
_library.define("held(Tensor x) -> Tensor")
_library.impl("held", lambda x: x.clone(), "CompositeExplicitAutograd")


def pairs(traced: Traced, inputs: Sequence[int], outputs: Sequence[int]) -> dict[int, int]:
    """Which outputs can be written over which inputs: those that are laid out alike, densely.

    Args:
        traced: The graph.
        inputs: Positions of the old leaves.
        outputs: Positions of the new leaves, in the same order.

    Returns:
        From the position of an output to that of its input.
    """
    results: Any = output_of(traced.graph.graph).args[0]
    found: dict[int, int] = {}
    for position, result in zip(inputs, outputs, strict=True):
        old, new = traced.fakes[position], results[result]
        made = new.meta["val"]
        if (made.shape, made.dtype, made.device) == (old.shape, old.dtype, old.device) and is_dense(old):
            found[result] = position
    return found


def write_over(traced: Traced, over: Mapping[int, int]) -> set[int]:
    """End the graph with copies of outputs into inputs, and return only the rest.

    What is returned or copied must not be read from memory that a copy has overwritten, so aliases of such inputs are
    taken out of the way first.

    Returns:
        Positions of inputs that stay as they are.
    """
    graph = traced.graph.graph
    end = output_of(graph)
    returned: Any = end.args[0]
    results = list(returned)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    same = {position for place, position in over.items() if results[place] is placeholders[position]}
    written = {_memory(traced.fakes[position]) for position in {*over.values()} - same}
    moved: dict[Node, Node] = {}
    with graph.inserting_before(end):
        for place, node in enumerate(results):
            if over.get(place) in same or _memory(node.meta["val"]) not in written:
                continue
            if node not in moved:
                # Not a clone, which Inductor removes as if nothing were written over what it copies.
                moved[node] = graph.call_function(torch.ops.functional_train.held.default, (node,))
                moved[node].meta["val"] = node.meta["val"].clone()
            results[place] = moved[node]
        for place, position in over.items():
            if position not in same:
                copy = graph.call_function(_aten.copy_.default, (placeholders[position], results[place]))
                copy.meta["val"] = placeholders[position].meta["val"]
    end.args = ([node for place, node in enumerate(results) if place not in over],)
    traced.graph.recompile()
    return same


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def hold_scalars(graph: Graph) -> None:
    """Keep what is slow to compute and small in memory, where it is spread over something large."""
    slow: set[Node] = set()
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point or _count(value) > _FEW:
            continue
        name = node.target._schema.name.partition("::")[2]
        if name not in _SLOW and not any(source in slow for source in node.all_input_nodes):
            continue
        slow.add(node)
        if any(_largest(user) > 8 * value.numel() for user in _users_beyond_views(node)):
            with graph.inserting_after(node):
                held = graph.call_function(torch.ops.functional_train.held.default, (node,))
            held.meta = dict(node.meta)
            node.replace_all_uses_with(held, delete_user_cb=lambda user, held=held: user is not held)
            slow.discard(node)


def _users_beyond_views(node: Node) -> list[Node]:
    found: list[Node] = []
    for user in node.users:
        views = isinstance(user.target, torch._ops.OpOverload) and user.target.is_view
        found += _users_beyond_views(user) if views or (user.op == "call_function" and _is_getitem(user)) else [user]
    return found


def _is_getitem(node: Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"


def _largest(node: Node) -> float:
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    return max((_count(each) for each in values if isinstance(each, Tensor)), default=0)


def _count(tensor: Tensor) -> float:
    # To ask how large an unknown size is would make it known.
    return tensor.numel() if all(isinstance(size, int) for size in tensor.shape) else math.inf


def lengths_of(traced: Traced, dynamic: Collection[int]) -> Callable[[Sequence[Tensor]], bool]:
    """Whether given tensors have lengths that a graph holds for; asked of the graph when it is lowered already."""
    places = sorted(dynamic)
    environment = traced.mode.shape_env
    assert environment is not None
    fakes: list[Any] = [traced.fakes[place] for place in places]
    condition = environment.produce_guards_expression(fakes, ignore_static=False)
    code = compile(condition or "True", "<lengths>", "eval")

    def fits(tensors: Sequence[Tensor]) -> bool:
        asked = {f"t{at}": _Asked(tensors[place]) for at, place in enumerate(places)}
        return bool(eval(code, SYMPY_INTERP, {"L": asked}))

    return fits


class _Asked:
    """What conditions ask a tensor for. Where in its storage it begins, code does not depend on."""

    def __init__(self, tensor: Tensor) -> None:
        self.size, self.stride = tensor.size, tensor.stride

    def storage_offset(self) -> int:
        return 0


def run_eagerly(traced: Traced) -> Run:
    """The graph as it is, operation by operation."""
    module = traced.graph

    def run(arguments: list[Tensor]) -> Sequence[Any]:
        given = tuple(arguments)
        arguments.clear()
        with torch.no_grad():
            return module(*given)

    return run


def run_by_inductor(traced: Traced) -> Run:
    """The graph as machine code."""
    _check_dense(traced.graph.graph)
    # Inductor takes a second to import, and some of what it imports warns of itself.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from torch._guards import TracingContext, tracing
        from torch._inductor import config
        from torch._inductor.compile_fx import compile_fx_inner
        from torch._inductor.exc import InductorError, InvalidCxxCompiler
        from torch._inductor.fx_passes.joint_graph import constant_fold_uniform_value
        from torch._inductor.fx_passes.post_grad import remove_noop_ops
        from torch._inductor.lowering import lowerings, register_lowering
        from torch._inductor.virtualized import V

    ours: Any = torch.ops.functional_train
    own: dict[Any, Any] = {ours.held.default: _held, ours.small_product.default: lower_product}
    for operation, lowering in own.items():
        if operation not in lowerings:
            register_lowering(operation, type_promotion_kind=None)(lowering)
    inline_products(traced.graph.graph)
    hold_scalars(traced.graph.graph)
    traced.graph.recompile()
    # Otherwise Inductor lays results out as it likes.
    end = output_of(traced.graph.graph)
    results: Any = end.args[0]
    end.meta["user_visible_output_idxs"] = list(range(len(results)))
    largest = max((_bytes(node) for node in traced.graph.graph.nodes if node.op == "call_function"), default=0)
    # Inductor's patterns compute something else than they replace: of torch.add(a @ b, v, alpha=0.9), one drops the
    # alpha (torch 2.13), and one for attention takes any permutation of the keys for a transposition.
    # Sizes and strides are what the key of the variant says, so the code need not ask again.
    settings = config.patch(pattern_matcher=False, size_asserts=False, alignment_asserts=False)
    with settings, torch.no_grad(), tracing(TracingContext(traced.mode)), V.set_fake_mode(traced.mode):
        # Of the passes before lowering, those that are no patterns: to set up the others takes a second.
        remove_noop_ops(traced.graph.graph)
        constant_fold_uniform_value(traced.graph)
        try:
            return _with_pool(compile_fx_inner(traced.graph, traced.fakes), largest)
        except (InductorError, InvalidCxxCompiler) as error:
            if InvalidCxxCompiler.__name__ not in f"{type(error).__name__}: {error}":
                raise
            raise CompileError(
                'Inductor found no C++ compiler. Install one (g++ or clang), or pass backend="eager" to run the graph '
                "without one."
            ) from error


def _with_pool(compiled: Any, largest: float) -> Run:
    """Where tensors on the way are large, take their memory from a pool, which the generated module then calls."""
    # A graph without operations is run by a plain function.
    code = getattr(compiled, "current_callable", compiled)
    names: dict[str, Any] = getattr(getattr(code, "__func__", code), "__globals__", {})
    if largest < _WORTH_KEEPING or _ALLOCATOR not in names:
        return compiled
    # Two variants may have the same code, and so the same module.
    pool = names[_ALLOCATOR] if isinstance(names[_ALLOCATOR], Pool) else Pool(names[_ALLOCATOR])
    names[_ALLOCATOR] = pool

    def run(arguments: list[Tensor]) -> Sequence[Any]:
        pool.begin()
        results = compiled(arguments)
        pool.end(results)
        return results

    return run


def _bytes(node: Node) -> float:
    value = node.meta.get("val")
    return _count(value) * value.element_size() if isinstance(value, Tensor) and value.device.type == "cpu" else 0


def _check_dense(graph: Graph) -> None:
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.layout is not torch.strided:
            raise CompileError(
                f"{node.name} makes a {value.layout} tensor, for which Inductor has no code. Keep tensors dense, "
                'or pass backend="eager" to run the graph without Inductor.'
            )


def found_on_disk() -> int:
    """How many graphs Inductor took from its cache on disk so far, in this process."""
    from torch._dynamo.utils import counters

    return counters["inductor"]["fxgraph_cache_hit"]


def _held(x: Any) -> Any:
    """A copy in memory of its own, made where it stands in the graph."""
    from torch._inductor.lowering import lowerings

    copied = lowerings[_aten.clone.default](x)
    copied.realize()
    return copied
