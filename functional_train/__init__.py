"""Train PyTorch models with pure functions.

Parameters, gradients, optimizer state, buffers and randomness are immutable pytrees, passed explicitly; a training step
is a pure function, and training is a fold of it.
"""

from functional_train import plot
from functional_train.gradients.reverse import grad, grad_and_value
from functional_train.losses.precision import mixed_precision
from functional_train.models.functional import Functional, functionalize, merge
from functional_train.models.statistics import update_bn
from functional_train.purity.effects import Effects, record_effects
from functional_train.runs.fit import fit
from functional_train.runs.history import History, early_stopping
from functional_train.steps.loop import fold, iterate, scan
from functional_train.steps.state import TrainState, init_state
from functional_train.steps.step import make_step
from functional_train.updates import projections, schedules
from functional_train.updates.apply import apply_updates, make_update
from functional_train.updates.chain import chain, identity
from functional_train.updates.hyperparameters import ScheduledState
from functional_train.updates.mixing import incremental_update, periodic_update
from functional_train.updates.optimizers._adam import AdamState, adam, adamw, scale_by_adam
from functional_train.updates.optimizers._sgd import sgd
from functional_train.updates.transformation import EmptyState, GradientTransformation, stateless
from functional_train.updates.transforms._accumulate import AccumulateState, accumulate_updates
from functional_train.updates.transforms._average import (
    AverageState,
    average_params,
    averaged_params,
    ema_params,
    swa_params,
)
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
from functional_train.updates.transforms._lookahead import LookaheadState, lookahead
from functional_train.updates.transforms._momentum import MomentumState, add_momentum
from functional_train.updates.transforms._monitor import MonitorState, monitor
from functional_train.updates.transforms._noise import NoiseState, add_noise
from functional_train.updates.transforms._project import keep_params_nonnegative, project
from functional_train.updates.transforms._scale import negate, scale_by_lr
from functional_train.updates.transforms._shape import (
    centralize,
    normalize_by_global_norm,
    scale,
    scale_by_param_norm,
    scale_by_param_rms,
    set_to_zero,
)
from functional_train.values import random, tree
from functional_train.values.errors import (
    BatchesError,
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

__all__ = [
    "AccumulateState",
    "AdamState",
    "Aux",
    "AverageState",
    "BatchesError",
    "ConditionFn",
    "ConditionState",
    "Effects",
    "EmaState",
    "EmptyState",
    "FiniteState",
    "Functional",
    "FunctionalTrainError",
    "GradFn",
    "GradientTransformation",
    "History",
    "Hyperparameter",
    "HyperparameterError",
    "ImmutableError",
    "LookaheadState",
    "LossError",
    "LossFn",
    "MomentumState",
    "MonitorState",
    "NoiseState",
    "NonFiniteError",
    "OwnershipError",
    "Params",
    "PathError",
    "PurityError",
    "Schedule",
    "ScheduledState",
    "StepFn",
    "StructureError",
    "TrainState",
    "UpdateFn",
    "accumulate_updates",
    "adam",
    "adamw",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_momentum",
    "add_noise",
    "apply_if_finite",
    "apply_updates",
    "average_params",
    "averaged_params",
    "centralize",
    "chain",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_leaf_norm",
    "clip_by_value",
    "conditionally_mask",
    "conditionally_transform",
    "early_stopping",
    "ema",
    "ema_params",
    "fit",
    "fold",
    "functionalize",
    "grad",
    "grad_and_value",
    "identity",
    "incremental_update",
    "init_state",
    "iterate",
    "keep_params_nonnegative",
    "lookahead",
    "make_step",
    "make_update",
    "merge",
    "mixed_precision",
    "monitor",
    "negate",
    "normalize_by_global_norm",
    "periodic_update",
    "plot",
    "project",
    "projections",
    "random",
    "record_effects",
    "scale",
    "scale_by_adam",
    "scale_by_lr",
    "scale_by_param_norm",
    "scale_by_param_rms",
    "scan",
    "schedules",
    "set_to_zero",
    "sgd",
    "stateless",
    "static_field",
    "struct",
    "swa_params",
    "tree",
    "update_bn",
    "zero_nans",
]
