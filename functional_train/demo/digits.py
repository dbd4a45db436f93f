"""Handwritten digits: a convolutional classifier with BatchNorm on 1,797 real scans."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import functional_train as ft
from functional_train.demo.task import Defaults, Task, TaskError, weights_from

DEFAULTS = Defaults(num_steps=500, batch_size=128, lr={"sgd": 0.1, "adam": 5e-3, "adamw": 5e-3})
_TEST_FRACTION = 0.2
_SIDE = 8


class Digits(NamedTuple):
    """Scans and what they show."""

    images: Tensor  # (num_samples, 1, 8, 8) float32 in [0, 1]
    labels: Tensor  # (num_samples,) int64 in [0, 10)


def make_task(key: Tensor, batch_size: int) -> Task:
    """Split the scans by a key, and make the classifier and its loss."""
    key_split, key_weights, key_batches = ft.random.split(key, 3)
    train, test = _split(key_split, _load())
    if batch_size > len(train.labels):
        raise TaskError(f"argument --batch-size: {batch_size} is more than the {len(train.labels):,} training scans")

    with weights_from(key_weights):
        module = _make_classifier()
    apply, params, buffers = ft.functionalize(module)

    def loss_fn(params: ft.Params, batch: Digits, *, buffers: ft.Params) -> tuple[Tensor, ft.Aux]:
        logits, buffers = apply(params, batch.images, buffers=buffers)
        return _cross_entropy(logits, batch.labels), ft.Aux(buffers=buffers)

    def batch_at(position: int) -> Digits:
        key_rows, key_shift = ft.random.split(ft.random.fold_in(key_batches, position))
        rows = ft.random.uniform(key_rows, (batch_size,), high=len(train.labels)).long()
        return Digits(_shifted(key_shift, train.images[rows]), train.labels[rows])

    def evaluate(state: ft.TrainState) -> Mapping[str, Tensor]:
        images, labels = (tensor.to(state.step.device) for tensor in test)
        logits, _ = apply(state.params, images, buffers=state.buffers, train=False)
        right = logits.argmax(dim=1) == labels
        return {"loss": _cross_entropy(logits, labels), "accuracy": right.double().mean()}

    def report(state: ft.TrainState) -> str:
        accuracy = float(evaluate(state)["accuracy"])
        num_test = len(test.labels)
        return f"test accuracy {accuracy:.1%} ({round(accuracy * num_test)} of {num_test} scans)"

    data = f"{len(train.labels):,} scans of digits to train on, {len(test.labels)} to test on"
    grad_fn = ft.grad_and_value(loss_fn, has_aux=True)
    return Task(data, module, params, buffers, loss_fn, grad_fn, batch_at, evaluate, report)


def _load() -> Digits:
    from sklearn.datasets import load_digits

    scans: Any = load_digits()
    return Digits(torch.tensor(scans.images, dtype=torch.float32)[:, None] / 16.0, torch.tensor(scans.target).long())


def _split(key: Tensor, digits: Digits) -> tuple[Digits, Digits]:
    order = ft.random.permutation(key, len(digits.labels))
    num_test = int(_TEST_FRACTION * len(order))
    test, train = order[:num_test], order[num_test:]
    return Digits(digits.images[train], digits.labels[train]), Digits(digits.images[test], digits.labels[test])


def _make_classifier() -> nn.Module:
    return nn.Sequential(
        *_make_block(1, 32, stride=1),
        *_make_block(32, 64, stride=2),
        *_make_block(64, 64, stride=2),
        nn.Flatten(),
        nn.Linear(64 * (_SIDE // 4) ** 2, 10),
    )


def _make_block(num_in: int, num_out: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(num_in, num_out, kernel_size=3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(num_out), nn.ReLU()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=0.1)


def _shifted(key: Tensor, images: Tensor) -> Tensor:
    """Move each image by at most one pixel in each direction."""
    num_images = len(images)
    first = ft.random.uniform(key, (2, num_images, 1), high=3).long()
    rows, columns = first + torch.arange(_SIDE)
    padded = F.pad(images, (1, 1, 1, 1))
    return padded[torch.arange(num_images)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]
