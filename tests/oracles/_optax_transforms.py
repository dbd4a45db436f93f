"""What of Optax is run: its transforms, wrappers and projections."""

from tests.oracles._writing import Spec

AGC = "Unit norms: along all axes but the last for 2-d, all but the first for 4-d, over the whole leaf for scalars and vectors; 3-d as in the source; bound clipping max(|p|, eps)."
TRUST = "1 where a norm is zero; norms at least min_norm."
PROJECTION = "The figures are projections of the gradients of that step, taken as one vector over all leaves."
NO_GRADIENT = {"quadratic": "a projection is a function of one tree; see the given gradients"}
SPOILED = "The gradients of steps 2, 7, 8 and 9 hold a NaN in the first entry of `vector`."


def _transform(name: str, call: str, rule: str = "", note: str = "") -> Spec:
    return Spec(name, f"chain({call}, scale(-0.1))", rule, note)


def _projection(name: str, call: str, rule: str = "") -> Spec:
    return Spec(name, call, rule, PROJECTION, driver="projection", without=NO_GRADIENT)


SPECS = (
    _transform("adaptive_grad_clip", "adaptive_grad_clip(clipping=0.1)", AGC),
    _transform("adaptive_grad_clip_options", "adaptive_grad_clip(clipping=0.5, eps=1.0)", AGC),
    _transform("clip", "clip(max_delta=0.3)"),
    _transform("clip_by_block_rms", "clip_by_block_rms(threshold=0.4)", "Divides by max(1, RMS / threshold), leaf by leaf."),
    _transform("clip_by_global_norm", "clip_by_global_norm(max_norm=3.0)", "g / |g| max_norm where |g| >= max_norm, no eps."),
    _transform("centralize", "centralize()", "Mean over all dimensions but the first; scalars and vectors unchanged."),
    _transform("ema", "ema(decay=0.8)", "Debiased; the state is not."),
    _transform("ema_biased", "ema(decay=0.8, debias=False)"),
    _transform("trace", "trace(decay=0.8)"),
    _transform("trace_nesterov", "trace(decay=0.8, nesterov=True)"),
    _transform("normalize_by_update_norm", "normalize_by_update_norm()", "Divides by (|g| + eps) / scale_factor."),
    _transform("normalize_by_update_norm_options", "normalize_by_update_norm(scale_factor=2.0, eps=0.1)"),
    _transform("scale_by_param_block_norm", "scale_by_param_block_norm(min_scale=1.0)"),
    _transform("scale_by_param_block_rms", "scale_by_param_block_rms(min_scale=0.5)"),
    _transform("scale_by_trust_ratio", "scale_by_trust_ratio()", TRUST),
    _transform("scale_by_trust_ratio_options", "scale_by_trust_ratio(min_norm=0.7, trust_coefficient=0.5, eps=0.1)", TRUST),
    Spec("apply_every", "chain(apply_every(k=4), scale(-0.02))", "Adds up, does not average."),
    Spec("lookahead", "lookahead(sgd(learning_rate=0.05), sync_period=5, slow_step_size=0.5)", note="eval_params are the slow ones.", driver="lookahead"),
    Spec("lookahead_reset", "lookahead(sgd(learning_rate=0.05, momentum=0.9), sync_period=4, slow_step_size=0.8, reset_state=True)", note="eval_params are the slow ones.", driver="lookahead"),
    Spec("multi_steps", "MultiSteps(chain(clip_by_global_norm(2.0), adam(0.05)), every_k_schedule=4, accumulator_dtype=float64).gradient_transformation()", "Running mean of the gradients; the inner optimizer sees parameters of the last micro step."),
    Spec("multi_steps_sum", "MultiSteps(sgd(0.05, momentum=0.9), every_k_schedule=3, use_grad_mean=False, accumulator_dtype=float64).gradient_transformation()"),
    Spec("apply_if_finite", "apply_if_finite(adam(0.05), max_consecutive_errors=2)", "The third bad update in a row is let through (a NaN that stays in `vector`); up to two are dropped, state included.", SPOILED, driver="spoiled"),
    Spec("apply_if_finite_patient", "apply_if_finite(adam(0.05), max_consecutive_errors=5)", "", SPOILED, driver="spoiled"),
    Spec("keep_params_nonnegative", "chain(scale(-0.1), keep_params_nonnegative())", "A parameter that would turn negative becomes zero, one that started negative too."),
    Spec("sam_opaque", "contrib.sam(sgd(learning_rate=0.05), chain(contrib.normalize(), sgd(learning_rate=0.1)), sync_period=2, opaque_mode=True)", "No eps beside the norm.", driver="sam", without={"given": "the gradients do not ask where the parameters are, so SAM is SGD"}),
    _projection("projection_non_negative", "projections.projection_non_negative(tree)"),
    _projection("projection_box", "projections.projection_box(tree, lower=full_like(tree, -0.25), upper=full_like(tree, 0.5))"),
    _projection("projection_simplex", "projections.projection_simplex(tree, scale=2.0)"),
    _projection("projection_l1_sphere", "projections.projection_l1_sphere(tree, scale=2.0)"),
    _projection("projection_l1_ball", "projections.projection_l1_ball(tree, scale=19.0)", "Unchanged inside."),
    _projection("projection_l2_sphere", "projections.projection_l2_sphere(tree, scale=2.0)"),
    _projection("projection_l2_ball", "projections.projection_l2_ball(tree, scale=3.6)"),
    _projection("projection_linf_ball", "projections.projection_linf_ball(tree, scale=0.5)"),
    _projection("projection_hyperplane", "projections.projection_hyperplane(tree, a=start, b=0.5)"),
    _projection("projection_halfspace", "projections.projection_halfspace(tree, a=start, b=0.5)"),
    _projection("projection_vector", "projections.projection_vector(tree, a=start)"),
)  # fmt: skip
