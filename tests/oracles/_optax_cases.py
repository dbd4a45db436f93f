"""What of Optax is run: its named optimizers."""

from tests.oracles._writing import Spec

MATRICES = ("matrix", "wide", "cube")
TWO_DIMENSIONS = ("matrix", "wide")
NO_SCALAR = ("vector", "matrix", "wide", "cube")

BELIEF = (
    "eps_root is added to s itself, so it piles up; the update then divides by sqrt(s_hat) + eps; the residual is g - m of this step."
)
ADAFACTOR = (
    "Order: factored RMS, clip by block RMS, lr, parameter scale, momentum (ema, not debiased), weight decay (not scaled by lr), sign. "
    "Factored over the two largest dimensions (the last wins ties). decay_t = 1 - t^-0.8 with t = 1 at the first step, so v starts as g². "
    "eps is added to g². Parameter scale: max(RMS(p), 1e-3)."
)
ADAN = "First difference of gradients is zero; all three moments are debiased; eps_root 1e-8 inside the root besides eps; weight decay is added to the update (AdamW's way), not the paper's division by 1 + lr wd."
ADOPT = "First step changes only v = g² (the clip bound is 0^0.25 = 0); bound is count^0.25 with count = updates before this one; g is divided by max(sqrt(v of the step before), eps)."
ADEMAMIX = "m1 and v are debiased, m2 is not; b3 and alpha are constant (no warm-up) unless schedules are given."
SIMPLE_ADEMAMIX = "m = b1 m + g without (1 - b1) and without bias correction; numerator m + alpha g; v is debiased."
LION = "Weight decay is added after the sign and scaled by lr; default 1e-3."
LAMB = "Weight decay joins the debiased Adam update before the trust ratio; ratio is |p| / |u| without clipping, 1 where a norm is 0; eps inside Adam only."
LARS = "Weight decay, then trust_coefficient |p| / (|g + wd p| + eps), then lr, then momentum (trace of scaled updates, so lr is inside the momentum)."
NOVOGRAD = "v is per leaf and starts as |g|²; m starts as the first normalized gradient and has no (1 - b1); weight decay is inside m; no bias correction."
NADAM = "m_hat = b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t); no momentum schedule (torch has one)."
RPROP = "On a sign change the gradient is forgotten and no step is made (iRprop-); the first step uses lr as it is; the size is clipped when it changes only."
YOGI = "Both moments start at 1e-6, the first moment too; both are debiased as if they started at zero."
SM3 = "Minimum over dimensions of the row maxima plus g²; rsqrt(accumulator + 1e-8); momentum is an ema (1 - b1) without bias correction. Scalars fail."
OPTIMISTIC = "The gradient before the first is the first gradient."
RADAM = "Rectified where rho >= threshold (5), else the debiased m alone, without division; the paper asks rho > 4."
RMSPROP = "eps_in_sqrt=True puts eps inside the root (torch: outside); momentum is a trace applied after lr, so lr is inside the momentum."
MADGRAD = "lr + eps is used as lr; lambda = (lr + eps) sqrt(k + 1); x = (1 - momentum) z + momentum x (momentum 0.9 is the paper's 1 - c)."
PRODIGY = "dlr = d lr bc; d is updated after the moments and the new d stands beside eps only; v holds (d g)²; weight decay p dlr with the old d; numerator d/d0 dlr <g, x0 - x>."
DADAPT = "bias-corrected dlr; s and numerator use sqrt(b2); d_estimate = r / ((1 - sqrt b2) |s|_1); the numerator divides by sqrt(v) of the step before (eps alone at the first)."
MECHANIC = "s starts at s_init for each of 6 betas; weight decay joins the gradient, scaled by sum(s) |g| / |p|; h is clipped by +-m; m = max(beta m, |h| + eps)."
SCHEDULE_FREE = "x is recovered from y and z, so b1 > 0; weight is max_lr^weight_lr_power, lr read at step count before increment; base optimizer is stepped at y."
DOG = "Gradients of the whole tree share one distance; weight decay joins the gradient before; eps inside the root."
DOWG = "Initial squared distance is eps = 1e-4; eps outside the root."
COCOB = "Per element; L starts at eps; updates use max(G + L, alpha L); weight decay joins the gradient; the update returns to p0 + w."
ACPROP = "Divides by the s of the step before (debiased with t - 1), by 1 at the first step; the residual is g - m of the step before; eps_root is added to s itself, so it piles up."
SOPHIA = "Clips m_hat / max(gamma h, eps) with the h before this step's Hessian (h = 0 at the first step: sign-like steps); m is debiased, h is not; Hessian at steps 1, 1 + interval, ..."
MOMO = "bt is 0 at the first step; tau = min(lr, t1); weight decay through division by 1 + lr wd."
MUON = "Nesterov with debiasing as in nadam (b1 at t + 1); Newton-Schulz in the dtype of the leaf; eps added to the Frobenius norm; scale sqrt(max(1, out / in)) with out = the last dimension; other leaves by adamw (nesterov too)."
GALORE = "Projector is U (rows >= columns) or V of the SVD, renewed when count % gap = 0 (first step included); moments are not rotated; leaves that are not 2-d take plain Adam and are not multiplied by `scale`."
FLOAT64 = "The library casts to float32 inside; the figures were made with float64 in that place."
ADADELTA = "lr scales the update after both accumulators; weight decay is added to the update, unscaled by rho's accumulators."
FROMAGE = "Trust ratio |p| / |g| with norms at least min_norm, times lr / sqrt(1 + lr²), plus p (1 / sqrt(1 + lr²) - 1)."
ADAGRAD = "Accumulator starts at 0.1; rsqrt(accumulator + eps), eps inside the root; zero where the accumulator is 0."
ADAMAX = "nu = max(|g| + eps, b2 nu): eps joins the gradient."

SPECS = (
    Spec("adabelief", "adabelief(learning_rate=0.05)", BELIEF),
    Spec("adabelief_options", "adabelief(learning_rate=0.05, b1=0.8, b2=0.95, eps=1e-6, eps_root=1e-8)", BELIEF),
    Spec("adabelief_nesterov", "adabelief(learning_rate=0.05, nesterov=True)", BELIEF),
    Spec("adadelta", "adadelta(learning_rate=1.0)", ADADELTA),
    Spec("adadelta_options", "adadelta(learning_rate=0.5, rho=0.8, eps=1e-4, weight_decay=0.1)", ADADELTA),
    Spec("adafactor", "adafactor(learning_rate=0.05)", ADAFACTOR, FLOAT64),
    Spec("adafactor_factored", "adafactor(learning_rate=0.05, min_dim_size_to_factor=2)", ADAFACTOR, FLOAT64),
    Spec("adafactor_momentum", "adafactor(learning_rate=0.05, min_dim_size_to_factor=2, momentum=0.9, dtype_momentum=float64)", ADAFACTOR, FLOAT64),
    Spec("adafactor_weight_decay", "adafactor(learning_rate=0.05, min_dim_size_to_factor=2, weight_decay_rate=0.01)", ADAFACTOR, FLOAT64),
    Spec("adafactor_unscaled", "adafactor(learning_rate=0.05, min_dim_size_to_factor=3, decay_rate=0.7, multiply_by_parameter_scale=False, clipping_threshold=0.5, eps=1e-8)", ADAFACTOR, FLOAT64),
    Spec("adafactor_unclipped", "adafactor(learning_rate=0.05, min_dim_size_to_factor=2, clipping_threshold=None, multiply_by_parameter_scale=False)", ADAFACTOR, FLOAT64),
    Spec("adagrad", "adagrad(learning_rate=0.1)", ADAGRAD),
    Spec("adagrad_options", "adagrad(learning_rate=0.1, initial_accumulator_value=0.0, eps=1e-4)", ADAGRAD),
    Spec("adam", "adam(learning_rate=0.05)"),
    Spec("adam_options", "adam(learning_rate=0.05, b1=0.8, b2=0.95, eps=1e-4, eps_root=1e-6)"),
    Spec("adam_nesterov", "adam(learning_rate=0.05, nesterov=True)", NADAM),
    Spec("adamw", "adamw(learning_rate=0.05, weight_decay=0.1)"),
    Spec("adamw_nesterov", "adamw(learning_rate=0.05, b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.1, nesterov=True)", NADAM),
    Spec("adamax", "adamax(learning_rate=0.05)", ADAMAX),
    Spec("adamax_options", "adamax(learning_rate=0.05, b1=0.8, b2=0.9, eps=1e-4)", ADAMAX),
    Spec("adamaxw", "adamaxw(learning_rate=0.05, weight_decay=0.1)", ADAMAX),
    Spec("adan", "adan(learning_rate=0.05)", ADAN),
    Spec("adan_options", "adan(learning_rate=0.05, b1=0.9, b2=0.8, b3=0.95, eps=1e-6, eps_root=0.0, weight_decay=0.1)", ADAN),
    Spec("adopt", "contrib.adopt(learning_rate=0.05)", ADOPT),
    Spec("adopt_options", "contrib.adopt(learning_rate=0.05, b1=0.8, b2=0.95, eps=0.1)", ADOPT),
    Spec("adopt_unclipped", "contrib.adopt(learning_rate=0.05, b2=0.99, use_clipping=False)", ADOPT + " Without clipping the first step divides by eps alone."),
    Spec("adopt_nesterov", "contrib.adopt(learning_rate=0.05, b2=0.99, nesterov=True)", ADOPT),
    Spec("ademamix", "contrib.ademamix(learning_rate=0.05)", ADEMAMIX),
    Spec("ademamix_options", "contrib.ademamix(learning_rate=0.02, b1=0.8, b2=0.95, b3=0.99, alpha=8.0, eps=1e-4, eps_root=1e-6, weight_decay=0.1)", ADEMAMIX),
    Spec("simplified_ademamix", "contrib.simplified_ademamix(learning_rate=0.002)", SIMPLE_ADEMAMIX),
    Spec("simplified_ademamix_options", "contrib.simplified_ademamix(learning_rate=0.002, b1=0.9, b2=0.99, alpha=10.0, eps=1e-4, weight_decay=0.1)", SIMPLE_ADEMAMIX),
    Spec("amsgrad", "amsgrad(learning_rate=0.05)", "The maximum is over the debiased v (torch: over v itself)."),
    Spec("amsgrad_options", "amsgrad(learning_rate=0.05, b1=0.8, b2=0.9, eps=1e-4, bias_correction_mu=False, bias_correction_nu=False)"),
    Spec("dadapt_adamw", "contrib.dadapt_adamw(learning_rate=1.0)", DADAPT),
    Spec("dadapt_adamw_options", "contrib.dadapt_adamw(learning_rate=0.5, betas=(0.8, 0.95), eps=1e-6, estim_lr0=1e-3, weight_decay=0.1)", DADAPT),
    Spec("fromage", "fromage(learning_rate=0.05)", FROMAGE),
    Spec("fromage_options", "fromage(learning_rate=0.2, min_norm=0.5)", FROMAGE),
    Spec("galore", "contrib.galore(learning_rate=0.05, rank=2, update_proj_gap=10)", GALORE, FLOAT64),
    Spec("galore_options", "contrib.galore(learning_rate=0.05, rank=1, update_proj_gap=4, scale=0.25, weight_decay=0.1)", GALORE, FLOAT64),
    Spec("lamb", "lamb(learning_rate=0.05)", LAMB),
    Spec("lamb_options", "lamb(learning_rate=0.05, b1=0.8, b2=0.95, eps=1e-4, weight_decay=0.1)", LAMB),
    Spec("lars", "lars(learning_rate=10.0)", LARS),
    Spec("lars_options", "lars(learning_rate=1.0, weight_decay=0.1, trust_coefficient=0.02, eps=1e-3, momentum=0.8, nesterov=True)", LARS),
    Spec("lion", "lion(learning_rate=0.01)", LION),
    Spec("lion_options", "lion(learning_rate=0.01, b1=0.8, b2=0.95, weight_decay=0.1)", LION),
    Spec("madgrad", "contrib.madgrad(learning_rate=0.05)", MADGRAD),
    Spec("madgrad_options", "contrib.madgrad(learning_rate=0.05, momentum=0.5, weight_decay=0.1, eps=1e-3)", MADGRAD),
    Spec("mechanize_sgd", "contrib.mechanize(sgd(learning_rate=1.0))", MECHANIC),
    Spec("mechanize_adam", "contrib.mechanize(adam(learning_rate=0.1), s_init=1e-3)", MECHANIC),
    Spec("mechanize_options", "contrib.mechanize(sgd(learning_rate=1.0), weight_decay=0.1, eps=1e-6, s_init=0.01, num_betas=3)", MECHANIC),
    Spec("momo", "contrib.momo(learning_rate=1.0)", MOMO),
    Spec("momo_options", "contrib.momo(learning_rate=0.5, beta=0.8, lower_bound=-1.0, weight_decay=0.1, adapt_lower_bound=True)", MOMO),
    Spec("momo_adam", "contrib.momo_adam(learning_rate=0.1)", MOMO),
    Spec("momo_adam_options", "contrib.momo_adam(learning_rate=0.1, b1=0.8, b2=0.95, eps=1e-4, lower_bound=-1.0, weight_decay=0.1, adapt_lower_bound=True)", MOMO),
    Spec("muon", "contrib.muon(learning_rate=0.05)", MUON),
    Spec("muon_options", "contrib.muon(learning_rate=0.05, ns_steps=3, beta=0.8, nesterov=False, weight_decay=0.1, adam_weight_decay=0.2)", MUON),
    Spec("muon_rms", "contrib.muon(learning_rate=0.05, consistent_rms=0.2, adaptive=True)", MUON),
    Spec("muon_spectral", "contrib.muon(learning_rate=0.05, preconditioning='spectral', adam_learning_rate=0.01)", MUON),
    Spec("nadam", "nadam(learning_rate=0.05)", NADAM),
    Spec("nadamw", "nadamw(learning_rate=0.05, b1=0.8, b2=0.95, eps=1e-4, weight_decay=0.1)", NADAM),
    Spec("novograd", "novograd(learning_rate=0.02)", NOVOGRAD),
    Spec("novograd_options", "novograd(learning_rate=0.02, b1=0.8, b2=0.5, eps=1e-3, weight_decay=0.1)", NOVOGRAD),
    Spec("optimistic_adam", "optimistic_adam(learning_rate=0.05)", OPTIMISTIC),
    Spec("optimistic_adam_v2", "optimistic_adam_v2(learning_rate=0.05, alpha=0.8, beta=0.5, b1=0.8, nesterov=False)", OPTIMISTIC),
    Spec("optimistic_gradient_descent", "optimistic_gradient_descent(learning_rate=0.02)", OPTIMISTIC),
    Spec("optimistic_gradient_descent_options", "optimistic_gradient_descent(learning_rate=0.02, alpha=0.8, beta=0.5)", OPTIMISTIC),
    Spec("polyak_sgd", "polyak_sgd(max_learning_rate=0.5)"),
    Spec("polyak_sgd_options", "polyak_sgd(max_learning_rate=0.5, scaling=0.5, f_min=0.5, eps=0.1, variant='sps+')"),
    Spec("prodigy", "contrib.prodigy(learning_rate=1.0)", PRODIGY),
    Spec("prodigy_options", "contrib.prodigy(learning_rate=0.5, betas=(0.8, 0.95), beta3=0.9, eps=1e-6, estim_lr0=1e-3, estim_lr_coef=2.0, weight_decay=0.1, safeguard_warmup=True)", PRODIGY),
    Spec("radam", "radam(learning_rate=0.05)", RADAM),
    Spec("radam_options", "radam(learning_rate=0.05, b1=0.8, b2=0.95, eps=1e-4, threshold=4.0, nesterov=True)", RADAM),
    Spec("rmsprop", "rmsprop(learning_rate=0.02)", RMSPROP),
    Spec("rmsprop_plain_eps", "rmsprop(learning_rate=0.02, decay=0.8, eps=1e-2, initial_scale=1.0, eps_in_sqrt=False)", RMSPROP),
    Spec("rmsprop_centered", "rmsprop(learning_rate=0.02, centered=True, eps=1e-4, momentum=0.8, nesterov=True)", RMSPROP),
    Spec("rmsprop_debiased", "rmsprop(learning_rate=0.02, centered=True, eps=1e-2, momentum=0.8, bias_correction=True)", RMSPROP),
    Spec("rprop", "rprop(learning_rate=0.02)", RPROP),
    Spec("rprop_options", "rprop(learning_rate=0.02, eta_minus=0.3, eta_plus=1.5, min_step_size=0.01, max_step_size=0.05)", RPROP),
    Spec("schedule_free_sgd", "contrib.schedule_free_sgd(learning_rate=0.1)", SCHEDULE_FREE, driver="schedule_free"),
    Spec("schedule_free_sgd_options", "contrib.schedule_free_sgd(learning_rate=0.1, warmup_steps=8, b1=0.8, weight_decay=0.1, weight_lr_power=1.0)", SCHEDULE_FREE, driver="schedule_free"),
    Spec("schedule_free_adamw", "contrib.schedule_free_adamw(learning_rate=0.05)", SCHEDULE_FREE, driver="schedule_free"),
    Spec("schedule_free_adamw_options", "contrib.schedule_free_adamw(learning_rate=0.05, warmup_steps=8, b1=0.8, b2=0.95, eps=1e-4, weight_decay=0.1, weight_lr_power=1.0)", SCHEDULE_FREE, driver="schedule_free"),
    Spec("sgd", "sgd(learning_rate=0.05)"),
    Spec("sgd_nesterov", "sgd(learning_rate=0.05, momentum=0.9, nesterov=True)"),
    Spec("sign_sgd", "sign_sgd(learning_rate=0.01)"),
    Spec("signum", "signum(learning_rate=0.01)"),
    Spec("signum_options", "signum(learning_rate=0.01, beta=0.5)"),
    Spec("sm3", "sm3(learning_rate=0.1)", SM3, leaves=NO_SCALAR),
    Spec("sm3_options", "chain(scale_by_sm3(b1=0.8, b2=0.95, eps=1e-4), scale(-0.1))", SM3, leaves=NO_SCALAR),
    Spec("sophia", "contrib.sophia(learning_rate=0.05, hessian_diagonal_fn=given_hessian)", SOPHIA, "The Hessian diagonal is HESSIANS of the problem."),
    Spec("sophia_options", "contrib.sophia(learning_rate=0.02, b1=0.8, b2=0.9, eps=1e-4, weight_decay=0.1, gamma=2.0, clip_threshold=0.5, update_interval=3, hessian_diagonal_fn=given_hessian)", SOPHIA, "The Hessian diagonal is HESSIANS of the problem."),
    Spec("yogi", "yogi(learning_rate=0.05)", YOGI),
    Spec("yogi_options", "yogi(learning_rate=0.05, b1=0.8, b2=0.95, eps=1e-2)", YOGI),
    Spec("dog", "contrib.dog(learning_rate=1.0)", DOG),
    Spec("dog_options", "contrib.dog(learning_rate=0.5, init_step=('distance', 0.1), eps=1e-4, weight_decay=0.1)", DOG),
    Spec("dog_first_rate", "contrib.dog(learning_rate=1.0, init_step=('learning_rate', 0.1))", DOG),
    Spec("dog_layerwise", "chain(scale_by_distance_over_gradients(reps_rel=1e-3, param_dtype=float64), scale(-1.0))", "Distances and sums per leaf; eps inside the root; the first distance is reps_rel (1 + |p0|)."),
    Spec("dowg", "contrib.dowg(learning_rate=1.0)", DOWG),
    Spec("dowg_options", "contrib.dowg(learning_rate=0.5, init_estim_sq_dist=0.01, eps=1e-6, weight_decay=0.1)", DOWG),
    Spec("cocob", "contrib.cocob()", COCOB),
    Spec("cocob_options", "contrib.cocob(alpha=10.0, eps=1e-3, weight_decay=0.1)", COCOB),
    Spec("acprop", "contrib.acprop(learning_rate=0.05)", ACPROP),
    Spec("acprop_options", "contrib.acprop(learning_rate=0.05, b1=0.8, b2=0.95, eps=1e-4, eps_root=1e-6, weight_decay=0.1)", ACPROP),
)
