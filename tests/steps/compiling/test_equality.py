"""What is compiled computes what the function computes, for everything that the library has."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import functional_train as ft
from functional_train import testing
from tests import cases
from tests.global_rng import seeded
from tests.steps.compiling.problems import TARGET, adamw_step, distance, fresh, trajectory
from tests.trees import assert_bitwise, normal

FACTORIES = {**cases.OPTIMIZERS, **cases.TRANSFORMS, **cases.WRAPPERS, **cases.STAND_INS}
BACKENDS = ["eager", pytest.param("inductor", marks=pytest.mark.slow)]
SPARSE = {"sparse_adam", "scale_by_sparse_adam"}
DRAWS = {*cases.DRAWS, "add_noise", "scale_by_adahessian", "scale_by_sophia"}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", FACTORIES)
def test_every_transformation(case: str, backend: str) -> None:
    """Three steps in float64 equal the plain ones, from one graph, with the state moved."""
    optimizer = FACTORIES[case]()
    step = ft.make_step(ft.grad_and_value(distance), optimizer)
    key = ft.random.key(0) if case in DRAWS else None
    compiled = ft.compile(step, donate=True, backend=backend)
    if backend == "inductor" and case in SPARSE:
        with pytest.raises(ft.CompileError, match=r'makes a torch\.sparse_coo tensor.*no code.*backend="eager"'):
            compiled(fresh(optimizer, key), TARGET)
        return
    actual = trajectory(compiled, fresh(optimizer, key))
    # Fused kernels add products in one rounding, and iterative roots and bases carry it on.
    testing.assert_trees_close(actual, trajectory(step, fresh(optimizer, key)), rtol=1e-9, atol=1e-9)
    assert compiled.cache_info() == (2, 1, 64, 1)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_donation_changes_no_bit(backend: str) -> None:
    """Copied or moved, the numbers are the same."""
    step, optimizer = adamw_step()
    moved = trajectory(ft.compile(step, donate=True, backend=backend), fresh(optimizer), 4)
    assert_bitwise(moved, trajectory(ft.compile(step, backend=backend), fresh(optimizer), 4))


def test_a_buffer_added_to_a_product() -> None:
    """Momentum of a matrix whose gradient is a product: the factor of the momentum is not lost."""
    apply, x = (lambda params, x: x @ params["w"]), normal(0, (4, 3))
    step = ft.make_step(ft.grad_and_value(lambda p, x: apply(p, x).square().mean()), optimizer := ft.sgd(0.1, 0.9))
    states = [ft.init_state({"w": normal(1, (3, 2))}, optimizer) for _ in range(2)]
    compiled = ft.compile(step, donate=True)
    for _ in range(4):
        (states[0], actual), (states[1], expected) = compiled(states[0], x), step(states[1], x)
        testing.assert_trees_close(actual, expected, rtol=1e-9)
    testing.assert_trees_close(states[0], states[1], rtol=1e-9)


def images() -> tuple[Tensor, Tensor]:
    return normal(0, (4, 3, 8, 8), torch.float32), torch.tensor([0, 1, 2, 0])


def words() -> tuple[Tensor, Tensor]:
    return torch.arange(24).reshape(4, 6) % 11, torch.tensor([0, 1, 2, 0])


class Convolutional(nn.Module):
    """Convolution, BatchNorm, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).flatten(1))


class Recurrent(nn.Module):
    """Embedding and LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(11, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(x))[0][:, -1])


class Attentive(nn.Module):
    """Embedding tied to the head, around an encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(x)).mean(1))


MODELS = {"convolutional": (Convolutional, images), "recurrent": (Recurrent, words), "attentive": (Attentive, words)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, backend: str) -> None:
    """Twenty steps of a model reach the losses of the plain step, buffers included."""
    make, data = MODELS[name]
    with seeded():
        apply, params, buffers = ft.functionalize(make().double())
    x, y = data()
    batch = (x.double() if x.is_floating_point() else x, y)

    def loss_fn(params: Any, batch: Any, buffers: Any = None) -> Any:
        if buffers is None:
            return F.cross_entropy(apply(params, batch[0]), batch[1]), {}
        output, new = apply(params, batch[0], buffers=buffers)
        return F.cross_entropy(output, batch[1]), ft.Aux(buffers=new)

    # Adam's first steps divide noise by noise where a gradient is zero, as before BatchNorm; this rule does not.
    step = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), optimizer := ft.sgd(0.1, momentum=0.9))
    states = [ft.init_state(params, optimizer, buffers=buffers) for _ in range(2)]
    compiled = ft.compile(step, donate=True, backend=backend)
    for _ in range(20):
        (states[0], actual), (states[1], expected) = compiled(states[0], batch), step(states[1], batch)
        testing.assert_trees_close(actual, expected, rtol=1e-9)
    testing.assert_trees_close(states[0], states[1], rtol=1e-9, atol=1e-9)


def inner_loss(params: Any, target: Any) -> Tensor:
    """The loss after two steps of descent."""
    for _ in range(2):
        params = ft.tree.sub(params, ft.tree.scale(0.1, ft.grad(distance)(params, target)))
    return distance(params, target)


TRANSFORMED = {
    "grad": ft.grad(distance),
    "grad of grad": ft.grad(inner_loss),
    "vmap": torch.func.vmap(distance, in_dims=(0, None)),
    "per sample": torch.func.vmap(torch.func.grad(distance), in_dims=(None, 0)),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TRANSFORMED)
def test_transforms_inside(name: str, backend: str) -> None:
    """A function made by torch.func, or by ours, compiles like any other."""
    target = {"w": normal(1, (4, 3))}
    params = {"w": normal(0, (4, 3))}
    fn = TRANSFORMED[name]
    testing.assert_trees_close(ft.compile(fn, backend=backend)(params, target), fn(params, target), rtol=1e-9)


@pytest.mark.parametrize(
    "transform", [torch.func.grad, torch.func.vmap, torch.func.jacrev], ids=lambda one: one.__name__
)
def test_transforms_outside(transform: Any) -> None:
    """Under a transform, and where autograd records, the function is part of what is around it."""
    compiled = ft.compile(lambda x: (x * x).sum(), backend="eager")
    x = normal(0, (3,))
    assert_bitwise(transform(compiled)(x), transform(lambda x: (x * x).sum())(x))
    watched = x.clone().requires_grad_()
    assert_bitwise(torch.autograd.grad(compiled(watched), watched)[0], 2 * x)
    assert compiled.cache_info().misses == 0


def order(tensor: Tensor) -> list[int]:
    """Strides along the dimensions where they matter."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def test_images_come_back_as_they_were_laid_out() -> None:
    """Inside a graph channels may lie innermost; what is returned has the strides that the function gives it."""
    x, weight = normal(0, (2, 3, 6, 6), torch.float32), normal(1, (4, 3, 3, 3), torch.float32)

    def fn(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        y = F.conv2d(x, weight, padding=1).relu()
        return y, F.conv2d(y, y[:1, :, :3, :3]) + F.conv2d(y, y[1:, :, :3, :3])

    compiled = ft.compile(fn)
    for images in (x, x.contiguous(memory_format=torch.channels_last)):
        actual, expected = compiled(images, weight), fn(images, weight)
        testing.assert_trees_close(actual, expected, rtol=1e-5, atol=1e-5)
        assert list(map(order, actual)) == list(map(order, expected))
