"""Hypothesis strategies, laws and assertions for functions that train.

The public topic `ft.testing`. It needs Hypothesis, so it is imported by name only: `import functional_train.testing`.
`functional_train.testing.plugin` is a pytest plugin. To test an optimizer of your own, pass each of
`ft.testing.LAWS["optimizer"]` to `ft.testing.check_law`; of a transformation that alone need not go downhill, each of
`ft.testing.LAWS["transformation"]`.
"""

from functional_train.testing._algebra_laws import composes, descends
from functional_train.testing._loop_laws import folds_in_parts, loops_agree, step_is_pure, step_keeps_structure
from functional_train.testing._purity_laws import is_pure, resumes_from_leaves, runs_are_independent
from functional_train.testing._schedule_laws import has_no_jumps, is_finite, is_function_of_step
from functional_train.testing._structure_laws import (
    ignores_names_and_order,
    keeps_low_precision,
    state_keeps_its_structure,
    takes_any_tree,
    updates_are_like_params,
)
from functional_train.testing._transform_laws import is_differentiable, traces_as_one_graph, vmap_equals_loop
from functional_train.testing.assertions import (
    assert_global_rng_untouched,
    assert_same_structure,
    assert_trees_alike,
    assert_trees_close,
    assert_trees_equal,
    assert_untouched,
)
from functional_train.testing.factories import from_factory, gradient_transformations, schedules, train_states
from functional_train.testing.laws import LAWS, check_law
from functional_train.testing.strategies import (
    batches,
    from_module,
    keys,
    params,
    params_and_grads,
    pytrees,
    tensors,
)

__all__ = [
    "LAWS",
    "assert_global_rng_untouched",
    "assert_same_structure",
    "assert_trees_alike",
    "assert_trees_close",
    "assert_trees_equal",
    "assert_untouched",
    "batches",
    "check_law",
    "composes",
    "descends",
    "folds_in_parts",
    "from_factory",
    "from_module",
    "gradient_transformations",
    "has_no_jumps",
    "ignores_names_and_order",
    "is_differentiable",
    "is_finite",
    "is_function_of_step",
    "is_pure",
    "keeps_low_precision",
    "keys",
    "loops_agree",
    "params",
    "params_and_grads",
    "pytrees",
    "resumes_from_leaves",
    "runs_are_independent",
    "schedules",
    "state_keeps_its_structure",
    "step_is_pure",
    "step_keeps_structure",
    "takes_any_tree",
    "tensors",
    "traces_as_one_graph",
    "train_states",
    "updates_are_like_params",
    "vmap_equals_loop",
]
