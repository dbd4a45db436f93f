"""`grad` and `grad_and_value`: torch.func's gradients, on any tree, and where torch.func has none."""

import gc
import weakref
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutput
from transformers.tokenization_utils_base import BatchEncoding

import functional_train as ft
from functional_train.values.tree._structure import map as map_tree
from tests.global_rng import seeded
from tests.profiles import examples
from tests.trees import Pair, Witness, assert_bitwise, assert_close, nestings, normal, tensors

floats = nestings(tensors())
mixed = nestings(st.one_of(tensors(), tensors(torch.float32), st.just(torch.tensor(3)), st.none()))


def energy(*trees: Any) -> Tensor:
    """A smooth function of all floating leaves of some trees but the second leaf of each."""
    total = torch.zeros((), dtype=torch.float64)
    for tree in trees:
        leaves = [leaf for leaf in ft.tree.leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        for place, leaf in enumerate(leaves):
            if place != 1:
                total = total + (leaf.double().sin() * (place + 1.5) + leaf.double() ** 3 / 7).sum()
    return total


@given(floats)
def test_equals_torch_func(params: Any) -> None:
    """Gradients and value of a random tree are torch.func's bit for bit; a leaf without influence has zeros."""
    assert_bitwise(ft.grad(energy)(params), torch.func.grad(energy)(params))
    assert_bitwise(ft.grad_and_value(energy)(params), torch.func.grad_and_value(energy)(params))


@given(floats, floats, st.sampled_from([1, -1, (0,), (0, 1), (1, 0), (-1, 0)]))
def test_argnums_are_torch_funcs(first: Any, second: Any, argnums: Any) -> None:
    """One position or a tuple of them, from either end, gives what torch.func gives."""
    ours = ft.grad_and_value(energy, argnums=argnums)(first, second)
    assert_bitwise(ours, torch.func.grad_and_value(energy, argnums=argnums)(first, second))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensor: tensor,
        lambda tensor: {"a": tensor, "b": (tensor, tensor)},
        lambda tensor: ft.Params({"running.mean": tensor}),
        lambda tensor: ft.Aux({"accuracy": tensor}, ft.Params({"mean": tensor})),
        lambda tensor: Pair(tensor, [tensor]),
    ],
    ids=["tensor", "dict", "Params", "Aux", "NamedTuple"],
)
@pytest.mark.parametrize("transformed", [False, True])
def test_aux_of_any_tree(wrap: Any, transformed: bool) -> None:
    """Aux comes out whole, whatever its containers, and as torch.func gives it, on both paths."""
    params = {"w": normal(0, (3,)).requires_grad_(transformed)}

    def loss_fn(params: Any) -> Any:
        return params["w"].square().sum(), wrap(params["w"] * 2)

    grads, (loss, aux) = ft.grad_and_value(loss_fn, has_aux=True)(params)
    assert_bitwise((grads, loss, aux), (ft.tree.scale(2, params), params["w"].square().sum(), wrap(params["w"] * 2)))
    assert_bitwise(ft.grad(loss_fn, has_aux=True)(params), (grads, aux))
    assert all(leaf.requires_grad == transformed for leaf in ft.tree.leaves((grads, loss, aux)))


@given(mixed)
def test_leaves_without_a_slope_get_none(params: Any) -> None:
    """Integer leaves and None get None; the others what they would get alone, in their own dtype."""
    floating = [leaf for leaf in ft.tree.leaves(params) if leaf.is_floating_point()]
    if not floating:
        with pytest.raises(ft.LossError, match="nothing to differentiate"):
            ft.grad(energy)(params)
        return
    grads = ft.grad(energy)(params)
    alone = iter(torch.func.grad(energy)(floating))
    expected = map_tree(lambda leaf: next(alone) if leaf.is_floating_point() else None, params)
    assert_bitwise(grads, expected)


@given(floats)
def test_nothing_is_written_to_and_nothing_is_attached(params: Any) -> None:
    """Arguments stay as they are, and what comes out is detached."""
    witness = Witness(params)
    outcome = ft.grad_and_value(lambda params: (energy(params), params), has_aux=True)(params)
    witness.check()
    assert not any(leaf.requires_grad for leaf in ft.tree.leaves((params, outcome)))
    assert all(leaf.grad is None for leaf in ft.tree.leaves(params))


def test_keywords_and_other_arguments_pass_through() -> None:
    """Arguments that are not differentiated reach the loss as they are, by position and by name."""
    seen: list[Any] = []

    def loss_fn(params: Tensor, batch: Any, *, key: Any) -> Tensor:
        seen.extend([batch, key])
        return params.sum()

    batch, key = {"text": "words"}, object()
    ft.grad(loss_fn)(torch.ones(2), batch, key=key)
    assert seen[0] is batch
    assert seen[1] is key


small = {"w": normal(1, (3, 2)), "b": normal(2, (2,))}
points = normal(3, (4, 3))


def small_loss(params: Any, x: Tensor) -> Tensor:
    return torch.tanh(x @ params["w"] + params["b"]).square().sum()


def ours_and_torchs(compute: Any) -> tuple[Any, Any]:
    return compute(ft.grad), compute(torch.func.grad)


def scalar_of(grads: Any) -> Tensor:
    return torch.stack([(leaf * leaf).sum() for leaf in ft.tree.leaves(grads)]).sum()


COMPOSITIONS = {
    "nested": lambda grad: grad(lambda params: scalar_of(grad(small_loss)(params, points)))(small),
    "thrice": lambda grad: grad(
        lambda params: scalar_of(grad(lambda inner: scalar_of(grad(small_loss)(inner, points)))(params))
    )(small),
    "vmap(grad)": lambda grad: torch.func.vmap(grad(small_loss), (None, 0))(small, points),
    "grad(vmap)": lambda grad: grad(lambda params: torch.func.vmap(small_loss, (None, 0))(params, points).sum())(small),
    "grad(vmap(grad))": lambda grad: grad(
        lambda params: scalar_of(torch.func.vmap(grad(small_loss), (None, 0))(params, points))
    )(small),
    "jacrev(grad)": lambda grad: torch.func.jacrev(grad(small_loss))(small, points),
    "jacfwd(grad)": lambda grad: torch.func.jacfwd(grad(small_loss))(small, points),
    "grad of a hessian's trace": lambda grad: grad(
        lambda bias: torch.func.hessian(lambda bias: small_loss({**small, "b": bias}, points))(bias).trace()
    )(small["b"]),
    "jvp(grad)": lambda grad: torch.func.jvp(lambda params: grad(small_loss)(params, points), (small,), (small,)),
    "vjp(grad)": lambda grad: torch.func.vjp(lambda params: grad(small_loss)(params, points), small)[1](small),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_composes_with_torch_func(name: str) -> None:
    """Inside and around torch.func's transforms our gradient is torch.func's."""
    ours, torchs = ours_and_torchs(COMPOSITIONS[name])
    # The same operations in the same order; forward mode alone may order them otherwise.
    assert_close(ours, torchs, 1e-13)


def test_forward_mode_of_autograd_passes_through() -> None:
    """Tangents of torch.autograd.forward_ad, which is no torch.func transform, are not cut either."""
    tangent = {"w": normal(4, (3, 2)), "b": normal(5, (2,))}
    with torch.autograd.forward_ad.dual_level():
        dual = {name: torch.autograd.forward_ad.make_dual(small[name], tangent[name]) for name in small}
        grads = ft.grad(small_loss)(dual, points)
        found = {name: torch.autograd.forward_ad.unpack_dual(grads[name]).tangent for name in small}
    expected = torch.func.jvp(lambda params: torch.func.grad(small_loss)(params, points), (small,), (tangent,))[1]
    assert_close(found, expected, 1e-13)


@pytest.mark.parametrize("where", ["params", "batch", "keyword", "BatchEncoding"])
def test_an_outer_graph_is_never_cut(where: str) -> None:
    """Whichever argument requires grad, the slope of the gradient with respect to it is right."""

    def loss_fn(params: Tensor, batch: Any, *, sharpness: Tensor) -> Tensor:
        return (torch.sin(params * batch["x"]) * sharpness).sum()

    def outer(x: Tensor) -> Tensor:
        one = torch.full((3,), 0.7, dtype=torch.float64)
        params, batch, sharpness = {
            "params": (x, {"x": one}, one),
            "batch": (one, {"x": x}, one),
            "BatchEncoding": (one, BatchEncoding({"x": x}), one),
            "keyword": (one, {"x": one}, x),
        }[where]
        grads, loss = ft.grad_and_value(loss_fn)(params, batch, sharpness=sharpness)
        return torch.cat([grads, loss[None]])

    x = normal(6, (3,)).requires_grad_()
    with seeded():  # gradcheck draws directions
        assert torch.autograd.gradcheck(outer, (x,))
        assert torch.autograd.gradgradcheck(outer, (x,))


def test_gradients_are_slopes() -> None:
    """The gradient is the limit of finite differences."""
    leaves, structure = ft.tree.flatten(small)
    grads = ft.tree.leaves(ft.grad(small_loss)(small, points))
    step = 1e-6
    for place, leaf in enumerate(leaves):
        for index in range(leaf.numel()):
            nudge = torch.zeros_like(leaf).flatten().index_fill(0, torch.tensor([index]), step).view_as(leaf)
            up, down = (
                small_loss(
                    ft.tree.unflatten(structure, [*leaves[:place], leaf + s * nudge, *leaves[place + 1 :]]), points
                )
                for s in (1, -1)
            )
            # Central differences err by about step**2 plus rounding / step.
            assert abs((up - down) / (2 * step) - grads[place].flatten()[index]) < 1e-8


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_computes_in_every_mode(mode: Any) -> None:
    """Under torch.no_grad and in inference mode gradients are the same, also of tensors that were made there."""
    expected = ft.grad(small_loss)(small, points)
    with mode():
        assert_bitwise(ft.grad(small_loss)(small, points), expected)
        made_inside = ft.tree.copy(small)
    assert_bitwise(ft.grad(small_loss)(made_inside, points), expected)


class Calls(TorchFunctionMode):
    """Keeps the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Marked(Tensor):
    """A tensor of another class, which torch asks before it computes."""

    seen: ClassVar[list[Any]] = []

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_who_watches_torch_sees_the_gradient() -> None:
    """A mode for functions of torch, and a tensor class, meet `torch.autograd.grad`; the bits are those of without."""
    expected = ft.grad(small_loss)(small, points)
    with Calls() as calls:
        assert_bitwise(ft.grad(small_loss)(small, points), expected)
    assert torch.autograd.grad in calls.seen

    marked = ft.tree.map(lambda leaf: leaf.as_subclass(Marked), small)
    grads = ft.grad(small_loss)(marked, points)
    assert_bitwise(ft.tree.map(lambda leaf: leaf.as_subclass(Tensor), grads), expected)
    assert torch.autograd.grad in Marked.seen


class Square(torch.autograd.Function):
    """Written without `setup_context`, which torch.func refuses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * slopes[0]


def test_where_torch_func_has_no_gradient() -> None:
    """Activation checkpointing and autograd functions without `setup_context` work at top level."""
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda x: Square.apply(x).sum())(points)
    assert_bitwise(ft.grad(lambda x: Square.apply(x).sum())(points), 2 * points)

    def checkpointed(params: Any, x: Tensor) -> Tensor:
        return checkpoint(small_loss, params, x, use_reentrant=False)

    assert_bitwise(ft.grad(checkpointed)(small, points), ft.grad(small_loss)(small, points))


def test_reentrant_checkpointing_is_refused_by_torch() -> None:
    """The old form of checkpointing needs `.backward()`, which writes to whatever it meets; torch names the way out."""
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        ft.grad(lambda w: checkpoint(torch.sin, w, use_reentrant=True).sum())(points)


def test_complex_parameters() -> None:
    """The gradient with respect to a complex leaf is torch's: the direction of steepest ascent."""
    z = torch.complex(normal(7, (3,)), normal(8, (3,)))
    assert_bitwise(ft.grad(lambda z: (z.abs() ** 2).sum())(z), torch.func.grad(lambda z: (z.abs() ** 2).sum())(z))


def test_a_leaf_that_stands_twice_has_two_slopes() -> None:
    """One tensor in two places of a tree is two arguments, as in torch.func."""
    w = normal(9, (3,))
    grads = ft.grad(lambda params: (params["a"] * 2 + params["b"] * 3).sum())({"a": w, "b": w})
    assert_bitwise(grads, {"a": torch.full_like(w, 2), "b": torch.full_like(w, 3)})


def test_unknown_mappings_in_aux_become_dicts() -> None:
    """The tensors of a model's output object come out detached too; it becomes a dict, as it would in a batch."""

    def loss_fn(w: Tensor) -> Any:
        return w.sum(), BaseModelOutput(last_hidden_state=w * 2)

    for w in (points, points.clone().requires_grad_()):
        _, aux = ft.grad(loss_fn, has_aux=True)(w)
        assert type(aux) is dict
        assert aux["last_hidden_state"].requires_grad == w.requires_grad


def test_tracing_sees_the_gradient() -> None:
    """Traced with fake tensors, the function is the same function."""

    def flat_grads(w: Tensor, b: Tensor, x: Tensor) -> Any:
        grads, loss = ft.grad_and_value(small_loss)({"w": w, "b": b}, x)
        return grads["w"], grads["b"], loss

    traced = make_fx(flat_grads, tracing_mode="fake")(small["w"], small["b"], points)
    moved = points + 1
    assert_close(traced(small["w"], small["b"], moved), flat_grads(small["w"], small["b"], moved), 1e-14)


@pytest.mark.parametrize("outer", ["plain", "vmap"])
def test_compiles_as_one_graph(outer: str) -> None:
    """torch.compile takes a function that calls `grad_and_value`, aux, None and integer leaves included, whole."""
    params = ft.Params({**small, "count": torch.tensor(3), "absent": None})

    def loss_fn(params: Any, x: Tensor) -> Any:
        return small_loss(params, x), ft.Aux({"mean": x.mean()})

    compute = ft.grad_and_value(loss_fn, has_aux=True)
    if outer == "vmap":

        def grads_of(params: Any, x: Tensor) -> Any:
            return torch.func.vmap(ft.grad(small_loss), (None, 0))(dict(small), x)
    else:

        def grads_of(params: Any, x: Tensor) -> Any:
            return compute(params, x)

    compiled = torch.compile(grads_of, fullgraph=True, backend="aot_eager")
    assert_close(compiled(params, points), grads_of(params, points), 1e-13)
    torch.compiler.reset()


def test_no_graph_outlives_the_call() -> None:
    """What the loss computed on the way is freed, although aux holds a value that was computed from it."""
    alive: list[Any] = []

    def loss_fn(params: Any, x: Tensor) -> Any:
        hidden = torch.tanh(x @ params["w"])
        alive.append(weakref.ref(hidden))
        return hidden.square().sum(), {"mean": hidden.mean(), "hidden": (hidden * 1.0)}

    grads, (loss, aux) = ft.grad_and_value(loss_fn, has_aux=True)(small, points)
    gc.collect()
    assert alive[0]() is None
    assert all(leaf.grad_fn is None for leaf in ft.tree.leaves((grads, loss, aux)))


@settings(max_examples=examples(25))
@given(floats, st.integers(0, 3))
def test_microscopic_changes_of_structure_do_not_matter(params: Any, wrapped: int) -> None:
    """Renaming and nesting the leaves changes where a gradient stands, not its value."""
    leaves = ft.tree.leaves(params)
    tree: Any = dict(enumerate(leaves)) if wrapped % 2 else tuple(leaves)
    tree = [tree] if wrapped // 2 else tree
    assert_bitwise(ft.tree.leaves(ft.grad(energy)(tree)), ft.tree.leaves(ft.grad(energy)(params)))


def test_a_captured_tensor_is_a_constant() -> None:
    """A tensor that the loss captures is no argument: it gets no gradient, and nothing is written to it."""
    captured = normal(10, (3,)).requires_grad_()
    grads = ft.grad(lambda w: (w * captured).sum())(torch.ones(3, dtype=torch.float64))
    assert_bitwise(grads, captured.detach())
    assert captured.grad is None
