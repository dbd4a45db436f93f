"""Laws: a transformation is a pure function, and its state is all that it knows."""

from functional_train.testing._runs import Update, extras, gradients, run
from functional_train.testing.assertions import assert_global_rng_untouched, assert_trees_equal, assert_untouched
from functional_train.updates.transformation import GradientTransformation
from functional_train.values import tree
from functional_train.values.types import Tree


def is_pure(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that `init` and `update` change no argument, draw nothing, and return the same bits twice.

    Args:
        transformation: What is tested. It is given everything that `make_step` passes to an update.
        params: A tree of tensors.
        grads: A tree like `params`, in which `None` may stand for a leaf.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.is_pure(ft.adam(), {"w": torch.ones(2)}, {"w": torch.zeros(2)})
    """
    with assert_global_rng_untouched():
        state = assert_untouched(transformation.init, params)
        assert_trees_equal(transformation.init(params), state)
        for slope in gradients(grads):
            first = assert_untouched(transformation.update, slope, state, params, **extras(slope, params))
            second = assert_untouched(transformation.update, slope, state, params, **extras(slope, params))
            assert_trees_equal(second, first)
            state = first[1]


def resumes_from_leaves(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that a state is its leaves: copied, put into a new structure and continued, it gives the same bits.

    So a state that was saved and loaded goes on as if nothing had happened.

    Args:
        transformation: As `is_pure`.
        params: As `is_pure`.
        grads: As `is_pure`.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.resumes_from_leaves(ft.adam(), {"w": torch.ones(2)}, {"w": torch.zeros(2)})
    """
    reached = run(transformation, params, grads)[-1]
    leaves, _ = tree.flatten(reached.state)
    fresh, structure = tree.flatten(transformation.init(params))
    assert len(leaves) == len(fresh), (
        f"the state has {len(leaves)} leaves after an update and had {len(fresh)} at init, so what was saved fits no "
        "new state: where the gradient is None, keep what there was (see state_keeps_its_structure)"
    )
    loaded = tree.unflatten(structure, [leaf.clone() for leaf in leaves])
    _assert_same_run(
        run(transformation, reached.params, grads, loaded), run(transformation, reached.params, grads, reached.state)
    )


def runs_are_independent(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that two runs of one transformation, taken in turn, are what each is alone.

    Args:
        transformation: As `is_pure`.
        params: As `is_pure`.
        grads: As `is_pure`; the second run has other gradients.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.runs_are_independent(ft.adam(), {"w": torch.ones(2)}, {"w": torch.ones(2)})
    """
    others = tree.scale(3, grads)
    alone = run(transformation, params, grads), run(transformation, params, others)
    states = [transformation.init(params), transformation.init(params)]
    for position, slopes in enumerate(zip(gradients(grads), gradients(others), strict=True)):
        for member, slope in enumerate(slopes):
            before = params if position == 0 else alone[member][position - 1].params
            updates, states[member] = transformation.update(slope, states[member], before, **extras(slope, before))
            expected = alone[member][position]
            assert_trees_equal((updates, states[member]), (expected.updates, expected.state))


def _assert_same_run(actual: list[Update], expected: list[Update]) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert_trees_equal(one, other)
