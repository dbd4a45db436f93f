"""What of pytorch_optimizer is run: methods that see matrices."""

from tests.oracles._writing import Spec

FLOAT64 = "The library casts to float32 inside; the figures were made with float64 in that place."
NEWTON = "The Newton-Schulz iteration is bfloat16 in the library; the figures were made with it in float64."
BFLOAT16 = "As the library has it: the Newton-Schulz iteration in bfloat16."
NO_SCALAR = ("vector", "matrix", "wide", "cube")

SOAP = (
    "The first step only starts the preconditioner (GG = (1 - beta) g gᵀ, eigenvectors by eigh, largest first) and moves nothing; bias correction "
    "counts from the second; m is kept unrotated; QR of GG Q every precondition_frequency steps after the update, with the columns sorted; "
    "weight decay after the step; vectors are not rotated unless precondition_1d."
)
SHAMPOO = (
    "Statistics start at matrix_eps I and add up; inverse root of order 2 * ndim by SVD, each dimension right after its statistics; momentum mixes with the "
    "preconditioned gradient of the step before, before preconditioning."
)
SCALABLE = "AdaGrad graft by default (graft_type 1 = SGD: see the call); the graft alone before start_preconditioning_step; Nesterov momentum without dampening."
MUON = "m = lerp(m, g, 1 - momentum), Nesterov by lerp(g, m, momentum); leaf flattened to (first, rest); lr sqrt(max(1, rows / columns)), or 0.2 sqrt(max) with use_adjusted_lr; norm clamped at 1e-7; other leaves by AdamW (sqrt(v) / sqrt(1 - b2^t) + eps)."
ADAMUON = "Orthogonalized momentum u (no Nesterov, no sign), v of u² debiased, u / (sqrt(v_hat) + eps), then scaled to norm sqrt(min(rows, columns)) and lr 0.2 sqrt(max); the paper orthogonalizes sign(m)."
MARS = "The matrix version orthogonalizes m / (1 - b1); factor sqrt(max(1, rows / columns)) of the first two dimensions."
GALORE = "Right singular vectors where rows >= columns, else left; renewed when step % gap = 0 and at the first step; bias correction in lr, eps unscaled; weight decay after the step; leaves that are not 2-d by Adam."

SPECS = (
    Spec("soap", "SOAP(params, lr=0.05, weight_decay=0.0)", SOAP, FLOAT64),
    Spec("soap_options", "SOAP(params, lr=0.05, betas=(0.8, 0.9), shampoo_beta=0.7, weight_decay=0.1, precondition_frequency=3, precondition_1d=True, eps=1e-6)", SOAP, FLOAT64),
    Spec("soap_one_sided", "SOAP(params, lr=0.05, max_precondition_dim=3, precondition_frequency=5, normalize_gradient=True, correct_bias=False)", SOAP + " Dimensions above max_precondition_dim are not rotated.", FLOAT64),
    Spec("shampoo", "Shampoo(params, lr=0.05)", SHAMPOO),
    Spec("shampoo_options", "Shampoo(params, lr=0.05, momentum=0.5, weight_decay=0.1, preconditioning_compute_steps=3, matrix_eps=1e-2)", SHAMPOO),
    Spec("scalable_shampoo", "ScalableShampoo(params, lr=0.01, start_preconditioning_step=5, preconditioning_compute_steps=1)", SCALABLE),
    Spec("scalable_shampoo_options", "ScalableShampoo(params, lr=0.01, betas=(0.8, 0.95), moving_average_for_momentum=True, weight_decay=0.1, decoupled_weight_decay=True, start_preconditioning_step=3, preconditioning_compute_steps=2, graft_type=3, nesterov=False, use_svd=True)", SCALABLE),
    Spec("muon", "Muon(groups, lr=0.05, adamw_lr=0.05)", MUON, NEWTON),
    Spec("muon_options", "Muon(groups, lr=0.05, momentum=0.8, weight_decay=0.1, nesterov=False, ns_steps=3, use_adjusted_lr=True, adamw_lr=0.02, adamw_betas=(0.8, 0.9), adamw_wd=0.1, adamw_eps=1e-6)", MUON, NEWTON),
    Spec("muon_bfloat16", "Muon(groups, lr=0.05, adamw_lr=0.05)", MUON, BFLOAT16),
    Spec("adamuon", "AdaMuon(groups, lr=0.05, adamw_lr=0.05)", ADAMUON, NEWTON),
    Spec("adamuon_options", "AdaMuon(groups, lr=0.05, betas=(0.8, 0.9), weight_decay=0.1, ns_steps=3, use_adjusted_lr=False, adamw_lr=0.02, adamw_betas=(0.8, 0.9), adamw_wd=0.1, eps=1e-6)", ADAMUON, NEWTON),
    Spec("mars_shampoo", "MARS(params, lr=0.05, mars_type='shampoo')", MARS, NEWTON),
    Spec("galore", "GaLore(grouped(rank=2, update_proj_gap=10, scale=1.0, projection_type='std'), lr=0.05)", GALORE, FLOAT64),
    Spec("galore_options", "GaLore(grouped(rank=1, update_proj_gap=4, scale=0.25, projection_type='reverse_std'), lr=0.05, betas=(0.8, 0.95), weight_decay=0.1, eps=1e-4)", GALORE, FLOAT64),
)  # fmt: skip
