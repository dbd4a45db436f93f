"""Parts of the parameters have transformations, hyperparameters and states of their own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import functional_train as ft
from functional_train import testing
from functional_train.values import tree
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, normal, seeds, tensors

SOME = settings(max_examples=examples(30))
PARTS: dict[str, Callable[[], ft.GradientTransformation]] = {
    "a": lambda: ft.adamw(0.1),
    "b": lambda: ft.sgd(0.1, momentum=0.9),
    "c": lambda: ft.chain(ft.clip_by_global_norm(0.5), ft.stateless(lambda grads, params: tree.scale(-1, grads))),
}
params = {"embed.weight": normal(0, (3, 2)), "head.weight": normal(1, (2, 2)), "head.bias": normal(2, (2,))}


def only(params: Any, labels: Any, label: str, values: Any) -> Any:
    """The values of the leaves of one label, in a tree with None elsewhere."""
    return tree.map(lambda leaf, own, value: value if own == label else None, params, labels, values)


@SOME
@given(nestings(tensors()), seeds(), st.data())
def test_each_part_is_updated_as_if_it_were_alone(params: Any, seed: int, data: st.DataObject) -> None:
    """Whatever the labels and the absent gradients, a part's updates, parameters and state are those of its subtree."""
    labels = tree.map(lambda leaf: data.draw(st.sampled_from(sorted(PARTS))), params)
    absent = tree.map(lambda leaf: data.draw(st.booleans()), params)
    by_path = dict(tree.items(labels))
    parts = {label: make() for label, make in PARTS.items()}
    optimizer = ft.partition(parts, lambda path, leaf: by_path[path])
    state, update_fn = optimizer.init(params), ft.make_update(optimizer)
    own_states = {label: part.init(only(params, labels, label, params)) for label, part in parts.items()}
    for step in range(3):
        grads = tree.map(lambda leaf, gone, grad: None if gone else grad, params, absent, like(seed + step, params))
        updates, _ = testing.assert_untouched(optimizer.update, grads, state, params)
        new, state = testing.assert_untouched(update_fn, grads, state, params)
        for label in set(by_path.values()):
            part = parts[label]
            own, own_grads = only(params, labels, label, params), only(params, labels, label, grads)
            expected, _ = part.update(own_grads, own_states[label], own)
            assert_bitwise(only(params, labels, label, updates), expected)
            moved, own_states[label] = ft.make_update(part)(own_grads, own_states[label], own)
            assert_bitwise(only(params, labels, label, new), moved)
            assert_bitwise(state.inner[label], own_states[label])
        params = new


def test_param_groups_are_torchs() -> None:
    """Groups by path give the very bits of torch.optim's parameter groups."""
    for make, cls, options in (
        (ft.adamw, torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
        (ft.sgd, torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    ):
        special = [("*.bias", {"weight_decay": 0.0, "lr": 0.2}), ("embed.*", {"lr": 0.002})]
        theirs = {path: torch.nn.Parameter(leaf.clone()) for path, leaf in params.items()}
        reference = cls(
            [
                {"params": [theirs["head.bias"]], **special[0][1]},
                {"params": [theirs["embed.weight"]], **special[1][1]},
                {"params": [theirs["head.weight"]]},
            ],
            **options,
            fused=True,
        )
        optimizer = ft.param_groups(make, dict(special), **options)
        by_predicate = ft.param_groups(make, special, **options)
        ours, again = params, params
        state, other_state = optimizer.init(params), by_predicate.init(params)
        for step in range(5):
            grads = like(step, params)
            for path, parameter in theirs.items():
                parameter.grad = grads[path].clone()
            reference.step()
            ours, state = ft.make_update(optimizer)(grads, state, ours)
            again, other_state = ft.make_update(by_predicate)(grads, other_state, again)
        assert_bitwise(ours, {path: leaf.detach() for path, leaf in theirs.items()})
        assert_bitwise(again, ours)


def test_groups_may_have_schedules() -> None:
    """A group's hyperparameter may be a schedule where the others' is a number."""
    optimizer = ft.param_groups(ft.sgd, {"*.bias": {"lr": ft.schedules.linear(1.0, 0.0, 2)}}, lr=0.0)
    state, moved = optimizer.init(params), params
    for expected in (1.0, 0.5, 0.0):
        before = moved["head.bias"]
        moved, state = ft.make_update(optimizer)(params, state, moved)
        assert_close(before - moved["head.bias"], expected * params["head.bias"], 1e-15)
    assert_bitwise(moved["head.weight"], params["head.weight"])


@SOME
@given(testing.params_and_grads(), st.sampled_from((ft.sgd, ft.adamw)))
def test_what_is_frozen_keeps_every_bit(drawn: Any, make: Callable[[], ft.GradientTransformation]) -> None:
    """Frozen leaves keep their bits, the sign of zero included, whatever their gradient; they have no state."""
    params, grads = drawn
    paths = tree.paths(params)
    frozen = set(paths[::2])
    optimizer = ft.freeze(make(), lambda path, leaf: path in frozen)
    spoiled = tree.map(lambda leaf, grad: None if grad is None else grad * float("nan"), params, grads)
    state = optimizer.init(params)
    assert not any(leaf.numel() and path in frozen for path, leaf in tree.items(state))
    updates, _ = optimizer.update(spoiled, state, params)
    for new in (ft.make_update(optimizer)(spoiled, state, params)[0], ft.apply_updates(params, updates)):
        for (path, old), leaf in zip(tree.items(params), tree.leaves(new), strict=True):
            if path in frozen:
                testing.assert_trees_equal(leaf, old)


def test_a_mask_passes_the_rest_on() -> None:
    """Outside a mask gradients come out as they went in."""
    grads = like(3, params)
    tx = ft.masked(ft.scale_by_lr(0.5), "*.weight")
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates["head.bias"] is grads["head.bias"]
    assert_bitwise(updates["head.weight"], -0.5 * grads["head.weight"])


def test_the_first_glob_counts() -> None:
    """Globs are tried in order, and a nested tree has paths with slashes."""
    parts = {"plain": ft.sgd(), "decayed": ft.sgd(weight_decay=0.1)}
    optimizer = ft.partition(parts, {"*bias": "plain", "*/norm/*": "plain", "*": "decayed"})
    nested = {"layer": {"norm": {"w": torch.ones(1)}, "bias": torch.ones(1), "w": torch.ones(1, 1)}}
    assert dict(zip(tree.paths(nested), optimizer.init(nested).labels, strict=True)) == {
        "layer/bias": "plain",
        "layer/norm/w": "plain",
        "layer/w": "decayed",
    }


def test_norms_are_those_of_the_part() -> None:
    """Clipping inside a partition sees its own part only."""
    optimizer = ft.partition(
        {"head": ft.clip_by_global_norm(1.0), "rest": ft.identity()}, {"head.*": "head", "*": "rest"}
    )
    grads = tree.scale(10, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert_close(tree.global_norm([updates["head.weight"], updates["head.bias"]]), torch.tensor(1.0).double(), 1e-6)
    assert updates["embed.weight"] is grads["embed.weight"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ft.partition({"a": ft.adam}, {"*": "a"}), ft.StructureError, r"partition, for 'a', takes.*Call the f"),
        (lambda: ft.masked(ft.adam), ft.StructureError, "masked takes a GradientTransformation"),
        (lambda: ft.freeze("embed.*"), ft.StructureError, "freeze takes a GradientTransformation, got a str"),
        (
            lambda: ft.partition({"a": ft.sgd()}, {"head.*": "a"}).init(params),
            ft.PathError,
            r"no transformation for 'embed\.weight': no glob matches it; the transformations are 'a'.*'\*'",
        ),
        (
            lambda: ft.partition({"a": ft.sgd()}, lambda path, leaf: "b").init(params),
            ft.PathError,
            "its label is 'b'",
        ),
        (lambda: ft.freeze(ft.sgd(), "embd.*").init(params), ft.PathError, r"no path matches 'embd\.\*'"),
        (lambda: ft.param_groups(ft.sgd, {"*.bais": {}}).init(params), ft.PathError, r"no path matches '\*\.bais'"),
        (
            lambda: ft.param_groups(ft.sgd, {"*.bias": {"lr": -1.0}}),
            ft.HyperparameterError,
            "lr must be a finite number >= 0",
        ),
        (
            lambda: ft.freeze(ft.sgd()).update(params, ft.freeze(ft.sgd()).init({"w": torch.ones(1)}), params),
            ft.StructureError,
            r"labels for 1 leaves, the parameters have 3.*call optimizer\.init\(params\)",
        ),
        (
            lambda: ft.freeze(ft.sgd()).update(params, ft.freeze(ft.sgd()).init(params), None),
            ft.StructureError,
            "pass params to the update",
        ),
        (
            lambda: ft.freeze(ft.sgd()).update(params, ft.EmptyState(), params),
            ft.StructureError,
            "PartitionState was given a EmptyState",
        ),
    ],
)
def test_mistakes_are_explained(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Each mistake names what is wrong and the way out."""
    with pytest.raises(error, match=f"(?s){message}"):
        make()
