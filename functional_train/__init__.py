"""Train PyTorch models with pure functions.

Parameters, gradients, optimizer state, buffers and randomness are immutable pytrees, passed explicitly; a training step
is a pure function, and training is a fold of it.
"""

from functional_train import plot
from functional_train.gradients.reverse import grad, grad_and_value
from functional_train.gradients.sharpness import asam, sam
from functional_train.interop.switch import TorchRun, from_torch, to_torch
from functional_train.losses.precision import mixed_precision
from functional_train.models.functional import Functional, functionalize, merge
from functional_train.models.lora import lora_init, lora_merge
from functional_train.models.statistics import update_bn
from functional_train.purity.check import check_pure
from functional_train.purity.effects import Effects, record_effects
from functional_train.purity.findings import Finding
from functional_train.purity.guard import guard
from functional_train.runs import data
from functional_train.runs.checkpoints.checkpointer import Checkpointer, Saved
from functional_train.runs.checkpoints.files import load, save
from functional_train.runs.checkpoints.weights import load_weights, save_weights
from functional_train.runs.fit import fit
from functional_train.runs.history import History, early_stopping
from functional_train.steps.compiling._compiled import Compiled
from functional_train.steps.compiling.compile import compile
from functional_train.steps.compiling.report import CacheInfo, CompileReport
from functional_train.steps.loop import fold, iterate, repeat, scan
from functional_train.steps.recovery import RollbackState, init_rollback_state, raise_if_skipped, roll_back
from functional_train.steps.scaled import ScaledState, init_scaled_state, make_scaled_step
from functional_train.steps.skipping import SkippingState, init_skipping_state, make_skipping_step
from functional_train.steps.state import TrainState, init_state
from functional_train.steps.step import make_step
from functional_train.updates import projections, schedules
from functional_train.updates.apply import apply_updates, make_update
from functional_train.updates.chain import chain, identity, named_chain
from functional_train.updates.hyperparameters import ScheduledState
from functional_train.updates.mixing import incremental_update, periodic_update
from functional_train.updates.optimizers._adabelief import adabelief, scale_by_belief
from functional_train.updates.optimizers._adadelta import AdadeltaState, adadelta, scale_by_adadelta
from functional_train.updates.optimizers._adafactor import AdafactorState, adafactor, scale_by_factored_rms
from functional_train.updates.optimizers._adagrad import AdagradState, adagrad, scale_by_adagrad
from functional_train.updates.optimizers._adahessian import AdaHessianState, adahessian, scale_by_adahessian
from functional_train.updates.optimizers._adam import AdamState, adam, adamw, scale_by_adam
from functional_train.updates.optimizers._adamax import AdamaxState, adamax, scale_by_adamax
from functional_train.updates.optimizers._adan import AdanState, adan, scale_by_adan
from functional_train.updates.optimizers._ademamix import (
    AdEMAMixState,
    ademamix,
    scale_by_ademamix,
    scale_by_simplified_ademamix,
    simplified_ademamix,
)
from functional_train.updates.optimizers._adopt import adopt, scale_by_adopt
from functional_train.updates.optimizers._asgd import ASGDState, asgd, scale_by_asgd
from functional_train.updates.optimizers._came import CAMEState, came, scale_by_came
from functional_train.updates.optimizers._dadapt import DAdaptAdamState, DAdaptSGDState, dadapt_adam, dadapt_sgd
from functional_train.updates.optimizers._galore import GaLoreState, galore
from functional_train.updates.optimizers._lamb import lamb
from functional_train.updates.optimizers._laprop import laprop, scale_by_laprop
from functional_train.updates.optimizers._lars import lars
from functional_train.updates.optimizers._lbfgs import LBFGSState, lbfgs
from functional_train.updates.optimizers._lion import LionState, lion, scale_by_lion
from functional_train.updates.optimizers._mars import VarianceReductionState, mars, reduce_variance
from functional_train.updates.optimizers._muon import MatricesState, MuonState, muon, scale_by_muon
from functional_train.updates.optimizers._nadam import NAdamState, nadam, scale_by_nadam
from functional_train.updates.optimizers._novograd import LayerNormState, novograd, scale_by_layer_norm
from functional_train.updates.optimizers._prodigy import ProdigyState, prodigy
from functional_train.updates.optimizers._psgd import PsgdState, psgd, scale_by_psgd
from functional_train.updates.optimizers._radam import RAdamState, radam, scale_by_radam
from functional_train.updates.optimizers._rmsprop import RMSpropState, rmsprop, scale_by_rmsprop
from functional_train.updates.optimizers._rprop import RpropState, rprop, scale_by_rprop
from functional_train.updates.optimizers._schedule_free import (
    SecondMomentState,
    schedule_free_adamw,
    schedule_free_radam,
    schedule_free_sgd,
)
from functional_train.updates.optimizers._sgd import sgd
from functional_train.updates.optimizers._shampoo import ShampooState, scale_by_shampoo, shampoo
from functional_train.updates.optimizers._signum import (
    SignumState,
    scale_by_sign,
    scale_by_signum,
    sign_sgd,
    signum,
    tiger,
)
from functional_train.updates.optimizers._soap import SoapState, scale_by_soap, soap
from functional_train.updates.optimizers._sophia import SophiaState, scale_by_sophia, sophia
from functional_train.updates.optimizers._sparse_adam import scale_by_sparse_adam, sparse_adam
from functional_train.updates.optimizers._stable_adamw import scale_by_stable_adam, stable_adamw
from functional_train.updates.optimizers._yogi import scale_by_yogi, yogi
from functional_train.updates.torch_classes.wrap import TorchClassState, wrap_torch_optimizer
from functional_train.updates.transformation import EmptyState, GradientTransformation, stateless
from functional_train.updates.transforms._accumulate import AccumulateState, accumulate_updates
from functional_train.updates.transforms._average import (
    AverageState,
    average_params,
    averaged_params,
    ema_params,
    swa_params,
)
from functional_train.updates.transforms._cautious import add_cautious_decay, cautious
from functional_train.updates.transforms._clip import (
    adaptive_grad_clip,
    clip_by_block_rms,
    clip_by_global_norm,
    clip_by_leaf_norm,
    clip_by_value,
)
from functional_train.updates.transforms._condition import (
    ConditionFn,
    ConditionState,
    conditionally_mask,
    conditionally_transform,
)
from functional_train.updates.transforms._decay import add_decayed_weights
from functional_train.updates.transforms._ema import EmaState, ema
from functional_train.updates.transforms._finite import FiniteState, apply_if_finite, zero_nans
from functional_train.updates.transforms._graft import GraftState, graft
from functional_train.updates.transforms._grokfast import GrokfastEMAState, GrokfastMAState, grokfast_ema, grokfast_ma
from functional_train.updates.transforms._hutchinson import DiagonalFn, gauss_newton_bartlett, hutchinson
from functional_train.updates.transforms._inject import InjectedState, inject_hyperparams
from functional_train.updates.transforms._kahan import KahanState, kahan
from functional_train.updates.transforms._lookahead import LookaheadState, lookahead
from functional_train.updates.transforms._master_weights import MasterWeightsState, master_weights
from functional_train.updates.transforms._moments import MomentsState
from functional_train.updates.transforms._momentum import MomentumState, add_momentum
from functional_train.updates.transforms._monitor import MonitorState, monitor
from functional_train.updates.transforms._noise import NoiseState, add_noise
from functional_train.updates.transforms._param_groups import param_groups
from functional_train.updates.transforms._partition import PartitionState, freeze, masked, partition
from functional_train.updates.transforms._plateau import PlateauState, reduce_on_plateau
from functional_train.updates.transforms._project import keep_params_nonnegative, project
from functional_train.updates.transforms._scale import negate, scale_by_lr
from functional_train.updates.transforms._schedule_free import (
    ScheduleFreeState,
    schedule_free,
    schedule_free_eval_params,
)
from functional_train.updates.transforms._shape import (
    centralize,
    normalize_by_global_norm,
    scale,
    scale_by_param_norm,
    scale_by_param_rms,
    set_to_zero,
)
from functional_train.updates.transforms._stochastic_rounding import stochastic_rounding
from functional_train.updates.transforms._trust_ratio import scale_by_trust_ratio
from functional_train.values import random, tree
from functional_train.values.errors import (
    BatchesError,
    CheckpointError,
    CompileError,
    FunctionalTrainError,
    HyperparameterError,
    ImmutableError,
    LossError,
    NonFiniteError,
    OwnershipError,
    PathError,
    PurityError,
    StructureError,
)
from functional_train.values.params import Params
from functional_train.values.struct import static_field, struct
from functional_train.values.types import Aux, GradFn, Hyperparameter, LossFn, Schedule, StepFn, UpdateFn

__version__ = "0.1.0"

# Several names a line, a new line for each initial: one a line would fill the file.
__all__ = [
    "ASGDState", "AccumulateState", "AdEMAMixState", "AdaHessianState", "AdadeltaState", "AdafactorState",
    "AdagradState", "AdamState", "AdamaxState", "AdanState", "Aux", "AverageState",
    "BatchesError",
    "CAMEState", "CacheInfo", "CheckpointError", "Checkpointer", "CompileError", "CompileReport",
    "Compiled", "ConditionFn", "ConditionState",
    "DAdaptAdamState", "DAdaptSGDState", "DiagonalFn",
    "Effects", "EmaState", "EmptyState",
    "Finding", "FiniteState", "Functional", "FunctionalTrainError",
    "GaLoreState", "GradFn", "GradientTransformation", "GraftState", "GrokfastEMAState", "GrokfastMAState",
    "History", "Hyperparameter", "HyperparameterError",
    "ImmutableError", "InjectedState",
    "KahanState",
    "LBFGSState", "LayerNormState", "LionState", "LookaheadState", "LossError", "LossFn",
    "MasterWeightsState", "MatricesState", "MomentsState", "MomentumState", "MonitorState", "MuonState",
    "NAdamState", "NoiseState", "NonFiniteError",
    "OwnershipError",
    "Params", "PartitionState", "PathError", "PlateauState", "ProdigyState", "PsgdState", "PurityError",
    "RAdamState", "RMSpropState", "RollbackState", "RpropState",
    "Saved", "ScaledState", "Schedule", "ScheduleFreeState", "ScheduledState", "SecondMomentState", "ShampooState",
    "SignumState", "SkippingState", "SoapState", "SophiaState", "StepFn", "StructureError",
    "TorchClassState", "TorchRun", "TrainState",
    "UpdateFn",
    "VarianceReductionState",
    "accumulate_updates", "adabelief", "adadelta", "adafactor", "adagrad", "adahessian", "adam", "adamax", "adamw",
    "adan", "adaptive_grad_clip", "add_cautious_decay", "add_decayed_weights", "add_momentum", "add_noise", "ademamix",
    "adopt", "apply_if_finite", "apply_updates", "asam", "asgd", "average_params", "averaged_params",
    "came", "cautious", "centralize", "chain", "check_pure", "clip_by_block_rms", "clip_by_global_norm",
    "clip_by_leaf_norm", "clip_by_value", "compile", "conditionally_mask", "conditionally_transform",
    "dadapt_adam", "dadapt_sgd", "data",
    "early_stopping", "ema", "ema_params",
    "fit", "fold", "freeze", "from_torch", "functionalize",
    "galore", "gauss_newton_bartlett", "grad", "grad_and_value", "graft", "grokfast_ema", "grokfast_ma", "guard",
    "hutchinson",
    "identity", "incremental_update", "init_rollback_state", "init_scaled_state", "init_skipping_state", "init_state",
    "inject_hyperparams", "iterate",
    "kahan", "keep_params_nonnegative",
    "lamb", "laprop", "lars", "lbfgs", "lion", "load", "load_weights", "lookahead", "lora_init", "lora_merge",
    "make_scaled_step", "make_skipping_step", "make_step", "make_update", "mars", "masked", "master_weights", "merge",
    "mixed_precision", "monitor", "muon",
    "nadam", "named_chain", "negate", "normalize_by_global_norm", "novograd",
    "param_groups", "partition", "periodic_update", "plot", "prodigy", "project", "projections", "psgd",
    "radam", "raise_if_skipped", "random", "record_effects", "reduce_on_plateau", "reduce_variance", "repeat",
    "rmsprop", "roll_back", "rprop",
    "sam", "save", "save_weights", "scale", "scale_by_adadelta", "scale_by_adagrad", "scale_by_adahessian",
    "scale_by_adam", "scale_by_adamax", "scale_by_adan", "scale_by_ademamix", "scale_by_adopt", "scale_by_asgd",
    "scale_by_belief", "scale_by_came", "scale_by_factored_rms", "scale_by_laprop", "scale_by_layer_norm",
    "scale_by_lion", "scale_by_lr", "scale_by_muon", "scale_by_nadam", "scale_by_param_norm", "scale_by_param_rms",
    "scale_by_psgd", "scale_by_radam", "scale_by_rmsprop", "scale_by_rprop", "scale_by_shampoo", "scale_by_sign",
    "scale_by_signum", "scale_by_simplified_ademamix", "scale_by_soap", "scale_by_sophia", "scale_by_sparse_adam",
    "scale_by_stable_adam", "scale_by_trust_ratio", "scale_by_yogi", "scan", "schedule_free", "schedule_free_adamw",
    "schedule_free_eval_params", "schedule_free_radam", "schedule_free_sgd", "schedules", "set_to_zero", "sgd",
    "shampoo", "sign_sgd", "signum", "simplified_ademamix", "soap", "sophia", "sparse_adam", "stable_adamw",
    "stateless", "static_field", "stochastic_rounding", "struct", "swa_params",
    "tiger", "to_torch", "tree",
    "update_bn",
    "wrap_torch_optimizer",
    "yogi",
    "zero_nans",
]  # fmt: skip
