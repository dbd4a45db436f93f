"""What of pytorch_optimizer is run: methods that work entry by entry or leaf by leaf.

Left out: Kron (PSGD) and APOLLO, which draw random numbers inside.
"""

from tests.oracles._writing import Spec

FLOAT64 = "The library casts to float32 inside; the figures were made with float64 in that place."
HESSIAN = "The Hessian diagonal is HESSIANS of the problem, handed over at each step."
NO_SCALAR = ("vector", "matrix", "wide", "cube")
SAME = {"given": "the gradients do not ask where the parameters are, so the climb changes nothing"}
EVAL = "params is y (training), eval_params is x."
SGD_AFTER = "The gradients go through the function, then to SGD with lr 0.05."
LEAF_AFTER = "The gradients go through the function, then to SGD with lr 0.1."

DECAY = "Decoupled weight decay p (1 - lr wd) comes before the moments and the step (default)."
ADAN = "The state keeps -g; the first difference is 0; weight decay after the step as p / (1 + lr wd), or with weight_decouple before it; one eps, outside the root."
BELIEF = DECAY + " eps is added to s itself at each step (piles up) and again outside the root; sqrt(s) / sqrt(1 - b2^t) + eps."
ADOPT = "First step only sets v = g² (weight decay acts already); then clamp of g / max(sqrt v, eps) to step^0.25 with step from 2 on = count of this update; v after the step. Optax uses step - 1 in the bound."
CAUTIOUS = "Mask (u g > 0), scaled by n / (kept + 1) per leaf; no lower bound, where the paper's code clamps the mean at 1e-3."
ADEMAMIX = "m1 and v debiased, m2 not; alpha_t = min(t alpha / T, alpha); beta3_t by the half-life formula with t from 1."
SIMPLE = "m is an ema with (1 - b1), where the paper accumulates m = b1 m + g; numerator m + alpha g; divided by (sqrt(v) + sqrt(1 - b2^t) eps) sqrt(1 - b2^t): the second root is in the wrong place (Optax: v_hat)."
STABLE = "Debiased betas instead of bias correction; lr / max(1, RMS(g / sqrt(max(v, eps²)))) per leaf, with the new v; decay uses that lr; sqrt(v) + eps."
MARS = "gamma b1 / (1 - b1) (g - g_last), g_last starts at 0 (so the first correction is gamma b1 / (1 - b1) g); clip to norm 1 per leaf without eps; leaves below 2-d by AdamW with lr_1d factor; sqrt(v + 1e-15) + eps, then debias; weight decay after the moments, before the step."
PRODIGY = "bias_correction is off by default (Optax: always on, and there it multiplies); d is raised straight to d_hat while d = d0; new d beside eps only; weight decay with d lr of the old d."
DADAPT_ADAM = "bias_correction off by default; numerator uses sqrt(v) + eps before this step's v; weight decay before the step with d lr."
DADAPT_SGD = "lr d / |g0|; numerator sum of d lr <g, s> before s is raised; d_hat = 2 numerator / |s| (growth by 2 as in the paper's code); x by z = x0 - s and momentum."
DADAPT_LION = "exp_avg holds d lr g; the sign comes before the momentum update; s adds d lr sign."
DADAPT_ADAGRAD = "Denominator sqrt(alpha) + eps with eps 0 by default; numerator |s|²_weighted - sum (d lr)² g²."
SCHEDULE_FREE = "Weight decay of y joins the (normalized) gradient; sqrt(v_hat + 1e-15) + eps; warm-up factor t / warmup_steps."
LION = DECAY + " The sign is of lerp(m, g, 1 - b1) with the old m."
LAMB = "No bias correction of v; lr is divided by 1 - b1^t; |p| clamped to 10; ratio |p| / (|u| + eps); decoupled decay before the step (the paper adds wd p to u: weight_decouple=False does)."
LARS = "Leaves below 2-d: plain SGD without decay and trust ratio; ratio on the gradient before momentum; lr outside the momentum."
TIGER = DECAY
LAPROP = "Denominator sqrt(v + 1e-15) + eps, then divided by sqrt(1 - b2^t) (so eps too); lr inside the momentum; decoupled weight decay after the step."
SOPHIA = DECAY + " m is not debiased; h by ema from 0; clamp of m / max(h, eps) to p; no factor gamma, no |.|; h is renewed before it is used."
ADAHESSIAN = DECAY + " No spatial averaging; (h²_hat)^(power / 2) + eps."
ADAMINI = "One v per leaf (no rows or heads unless the name says so); decoupled weight decay before the step; m and v are float32."
CAME = DECAY + " Factored over the last two dimensions from 2-d on; rows and columns by ema from 0 without bias correction, RMS clip; residual (u - m)² + eps2; below 2-d: m itself is the step (no confidence)."
AGC = "Norms per row (all dimensions but the first) from 2-d on, else of the whole leaf; where |g| > clip max(|p|, eps): g clip max(|p|, eps) / max(|g|, 1e-6)."
GC = "Mean over all dimensions but the first, from 2-d on."
GROKFAST = "The filter's ema starts at the first gradient; g + lamb ema."
GROKADAM = "lr is divided by 1 + lamb (normalize_lr); max(sqrt(v_hat), eps) instead of + eps; the ema starts at the first gradient."
SAM = "Norm per the whole tree + perturb_eps; ASAM: norm of |p| g, climb p² g rho / norm. No eta beside |p|."
SAM_NORM = SAM + " get_global_gradient_norm(weight_adaptive=True)."
LOOKAHEAD = "Slow parameters start at the first parameters; every k steps p = slow + alpha (p - slow)."

SPECS = (
    Spec("adan", "Adan(params, lr=0.05)", ADAN),
    Spec("adan_options", "Adan(params, lr=0.05, betas=(0.9, 0.8, 0.95), weight_decay=0.1, max_grad_norm=2.0, eps=1e-6)", ADAN + " Gradients are clipped to max_grad_norm / (norm + eps).", FLOAT64, NO_SCALAR),
    Spec("adan_decoupled", "Adan(params, lr=0.05, weight_decay=0.1, weight_decouple=True)", ADAN),
    Spec("adabelief", "AdaBelief(params, lr=0.05)", BELIEF),
    Spec("adabelief_options", "AdaBelief(params, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, eps=1e-6)", BELIEF),
    Spec("adabelief_rectified", "AdaBelief(params, lr=0.05, betas=(0.9, 0.99), rectify=True, eps=1e-8)", BELIEF + " Rectified from rho >= 5; below, lr m / (1 - b1^t)."),
    Spec("adopt", "ADOPT(params, lr=0.05)", ADOPT),
    Spec("adopt_options", "ADOPT(params, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, weight_decouple=True, eps=0.1)", ADOPT),
    Spec("adopt_unclipped", "ADOPT(params, lr=0.05, betas=(0.9, 0.99), clip_lambda=None)", ADOPT),
    Spec("adopt_cautious", "ADOPT(params, lr=0.05, betas=(0.9, 0.99), cautious=True)", ADOPT + " " + CAUTIOUS),
    Spec("ademamix", "AdEMAMix(params, lr=0.05)", ADEMAMIX),
    Spec("ademamix_warmup", "AdEMAMix(params, lr=0.02, betas=(0.8, 0.95, 0.999), alpha=8.0, t_alpha_beta3=30, weight_decay=0.1, weight_decouple=True, eps=1e-6)", ADEMAMIX),
    Spec("simplified_ademamix", "SimplifiedAdEMAMix(params, lr=0.05)", SIMPLE),
    Spec("simplified_ademamix_options", "SimplifiedAdEMAMix(params, lr=0.01, betas=(0.95, 0.9), alpha=5.0, weight_decay=0.1, beta1_warmup=20, min_beta1=0.5, eps=1e-6)", SIMPLE),
    Spec("stable_adamw", "StableAdamW(params, lr=0.05)", STABLE),
    Spec("stable_adamw_options", "StableAdamW(params, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, eps=1e-4)", STABLE),
    Spec("mars", "MARS(params, lr=0.05)", MARS),
    Spec("mars_options", "MARS(params, lr=0.05, betas=(0.9, 0.95), gamma=0.1, optimize_1d=True, weight_decay=0.1, eps=1e-6)", MARS),
    Spec("mars_lion", "MARS(params, lr=0.01, mars_type='lion', optimize_1d=True)", MARS),
    Spec("mars_cautious", "MARS(params, lr=0.05, cautious=True, optimize_1d=True)", MARS + " " + CAUTIOUS),
    Spec("schedule_free_adamw", "ScheduleFreeAdamW(params, lr=0.05)", SCHEDULE_FREE, EVAL, driver="schedule_free"),
    Spec("schedule_free_adamw_options", "ScheduleFreeAdamW(params, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, r=1.0, warmup_steps=8, eps=1e-4)", SCHEDULE_FREE, EVAL, driver="schedule_free"),
    Spec("prodigy", "Prodigy(params, lr=1.0)", PRODIGY),
    Spec("prodigy_options", "Prodigy(params, lr=0.5, betas=(0.8, 0.95), beta3=0.9, d0=1e-3, d_coef=2.0, growth_rate=1.5, weight_decay=0.1, eps=1e-6)", PRODIGY),
    Spec("prodigy_debiased", "Prodigy(params, lr=1.0, d0=1e-3, bias_correction=True, safeguard_warmup=True)", PRODIGY),
    Spec("dadapt_adam", "DAdaptAdam(params, lr=1.0, d0=1e-3)", DADAPT_ADAM),
    Spec("dadapt_adam_options", "DAdaptAdam(params, lr=0.5, betas=(0.8, 0.95), d0=1e-2, growth_rate=1.5, weight_decay=0.1, weight_decouple=True, bias_correction=True, eps=1e-6)", DADAPT_ADAM),
    Spec("dadapt_sgd", "DAdaptSGD(params, lr=1.0, d0=1e-3)", DADAPT_SGD, FLOAT64),
    Spec("dadapt_sgd_options", "DAdaptSGD(params, lr=0.5, momentum=0.5, d0=1e-2, growth_rate=1.2, weight_decay=0.1)", DADAPT_SGD, FLOAT64),
    Spec("dadapt_lion", "DAdaptLion(params, lr=1.0, d0=1e-3)", DADAPT_LION),
    Spec("dadapt_lion_options", "DAdaptLion(params, lr=0.5, betas=(0.8, 0.95), d0=1e-2, weight_decay=0.1, weight_decouple=True)", DADAPT_LION),
    Spec("dadapt_adan", "DAdaptAdan(params, lr=1.0, d0=1e-3)", "", FLOAT64),
    Spec("dadapt_adan_options", "DAdaptAdan(params, lr=0.5, betas=(0.9, 0.8, 0.95), d0=1e-2, growth_rate=1.5, weight_decay=0.1)", "", FLOAT64),
    Spec("dadapt_adagrad", "DAdaptAdaGrad(params, lr=1.0, d0=1e-3, eps=1e-8)", DADAPT_ADAGRAD),
    Spec("dadapt_adagrad_options", "DAdaptAdaGrad(params, lr=0.5, momentum=0.9, d0=1e-2, growth_rate=1.5, weight_decay=0.1, eps=1e-6)", DADAPT_ADAGRAD),
    Spec("sam", "SAM(params, SGD, rho=0.1, lr=0.05, momentum=0.9)", SAM, FLOAT64, driver="sam", without=SAME),
    Spec("sam_options", "SAM(params, SGD, rho=0.5, perturb_eps=1e-3, lr=0.05)", SAM, FLOAT64, driver="sam", without=SAME),
    Spec("asam", "SAM(params, SGD, rho=0.5, adaptive=True, lr=0.05)", SAM_NORM, FLOAT64, driver="sam", without=SAME),
    Spec("lion", "Lion(params, lr=0.01)", LION),
    Spec("lion_options", "Lion(params, lr=0.01, betas=(0.8, 0.95), weight_decay=0.1)", LION),
    Spec("lion_cautious", "Lion(params, lr=0.01, weight_decay=0.1, cautious=True)", LION + " " + CAUTIOUS),
    Spec("lion_centralized", "Lion(params, lr=0.01, use_gc=True)", LION + " " + GC),
    Spec("ademamix_cautious", "AdEMAMix(params, lr=0.05, cautious=True)", ADEMAMIX + " The mask acts on m1 only. " + CAUTIOUS),
    Spec("laprop", "LaProp(params, lr=0.05)", LAPROP),
    Spec("laprop_options", "LaProp(params, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, eps=1e-4)", LAPROP),
    Spec("laprop_centered", "LaProp(params, lr=0.05, centered=True, steps_before_using_centered=10, eps=1e-3)", LAPROP),
    Spec("laprop_cautious", "LaProp(params, lr=0.05, cautious=True)", LAPROP + " " + CAUTIOUS),
    Spec("grokfast_ema", "gradfilter_ema(model, memory, alpha=0.9, lamb=2.0)", GROKFAST, SGD_AFTER, driver="filtered"),
    Spec("grokfast_ma", "gradfilter_ma(model, memory, window_size=5, lamb=2.0)", "Nothing is added until the window is full (warmup).", SGD_AFTER, driver="filtered"),
    Spec("grokfast_ma_cold", "gradfilter_ma(model, memory, window_size=5, lamb=0.5, filter_type='sum', warmup=False)", "The mean or sum is over what is there.", SGD_AFTER, driver="filtered"),
    Spec("grokfast_adamw", "GrokFastAdamW(params, lr=0.05)", GROKADAM),
    Spec("grokfast_adamw_options", "GrokFastAdamW(params, lr=0.05, betas=(0.8, 0.95), grokfast_alpha=0.8, grokfast_lamb=1.0, grokfast_after_step=5, weight_decay=0.1, normalize_lr=False, eps=1e-4)", GROKADAM),
    Spec("lamb", "Lamb(params, lr=0.05)", LAMB),
    Spec("lamb_options", "Lamb(params, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, weight_decouple=False, grad_averaging=False, pre_norm=True, eps=1e-4)", LAMB, FLOAT64),
    Spec("lars", "LARS(params, lr=0.05, trust_coefficient=0.2)", LARS),
    Spec("lars_options", "LARS(params, lr=0.02, weight_decay=0.1, momentum=0.8, dampening=0.1, trust_coefficient=0.5, nesterov=True)", LARS),
    Spec("tiger", "Tiger(params, lr=0.01)", TIGER),
    Spec("tiger_options", "Tiger(params, lr=0.01, beta=0.8, weight_decay=0.1)", TIGER),
    Spec("sophia_h", "SophiaH(params, lr=0.06)", SOPHIA, HESSIAN, driver="hessian"),
    Spec("sophia_h_options", "SophiaH(params, lr=0.05, betas=(0.8, 0.9), weight_decay=0.1, p=0.5, eps=1e-3)", SOPHIA, HESSIAN, driver="hessian"),
    Spec("adahessian", "AdaHessian(params, lr=0.1)", ADAHESSIAN, HESSIAN, driver="hessian"),
    Spec("adahessian_options", "AdaHessian(params, lr=0.1, betas=(0.8, 0.95), weight_decay=0.1, hessian_power=0.5, eps=1e-3)", ADAHESSIAN, HESSIAN, driver="hessian"),
    Spec("adam_mini", "AdamMini(model, lr=0.05)", ADAMINI, FLOAT64),
    Spec("adam_mini_options", "AdamMini(model, lr=0.05, betas=(0.8, 0.95), weight_decay=0.0, eps=1e-4)", ADAMINI, FLOAT64),
    Spec("came", "CAME(params, lr=0.05)", CAME),
    Spec("came_options", "CAME(params, lr=0.05, betas=(0.8, 0.9, 0.95), weight_decay=0.1, clip_threshold=0.5, eps2=1e-3)", CAME),
    Spec("lookahead", "Lookahead(SGD(params, lr=0.05), k=5, alpha=0.5)", LOOKAHEAD),
    Spec("lookahead_pullback", "Lookahead(SGD(params, lr=0.05, momentum=0.9), k=4, alpha=0.8, pullback_momentum='pullback')", LOOKAHEAD + " The momentum buffer goes the same way; its slow copy starts at zero."),
    Spec("lookahead_reset", "Lookahead(SGD(params, lr=0.05, momentum=0.9), k=4, alpha=0.8, pullback_momentum='reset')", LOOKAHEAD),
    Spec("agc", "agc(p, grad, agc_clip_val=0.1)", AGC, LEAF_AFTER, driver="leaf_by_leaf"),
    Spec("agc_options", "agc(p, grad, agc_eps=1.0, agc_clip_val=0.5)", AGC, LEAF_AFTER, driver="leaf_by_leaf"),
    Spec("centralize", "centralize_gradient(grad)", GC, LEAF_AFTER, driver="leaf_by_leaf"),
)  # fmt: skip
