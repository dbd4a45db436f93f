"""Train PyTorch models with pure functions.

Parameters, gradients, optimizer state, buffers and randomness are immutable pytrees, passed explicitly; a training step
is a pure function, and training is a fold of it.
"""

from functional_train import plot
from functional_train.gradients.reverse import grad, grad_and_value
from functional_train.losses.precision import mixed_precision
from functional_train.models.functional import Functional, functionalize, merge
from functional_train.models.lora import lora_init, lora_merge
from functional_train.purity.effects import Effects, record_effects
from functional_train.runs.fit import fit
from functional_train.runs.history import History, early_stopping
from functional_train.steps.loop import fold, iterate, scan
from functional_train.steps.state import TrainState, init_state
from functional_train.steps.step import make_step
from functional_train.updates import schedules
from functional_train.updates.apply import apply_updates, make_update
from functional_train.updates.chain import chain, identity, named_chain
from functional_train.updates.hyperparameters import ScheduledState
from functional_train.updates.optimizers._adahessian import AdaHessianState, adahessian, scale_by_adahessian
from functional_train.updates.optimizers._adam import AdamState, adam, adamw, scale_by_adam
from functional_train.updates.optimizers._galore import GaLoreState, galore
from functional_train.updates.optimizers._psgd import PsgdState, psgd, scale_by_psgd
from functional_train.updates.optimizers._sgd import sgd
from functional_train.updates.optimizers._shampoo import ShampooState, scale_by_shampoo, shampoo
from functional_train.updates.optimizers._soap import SoapState, scale_by_soap, soap
from functional_train.updates.optimizers._sophia import SophiaState, scale_by_sophia, sophia
from functional_train.updates.transformation import EmptyState, GradientTransformation, stateless
from functional_train.updates.transforms._clip import clip_by_global_norm
from functional_train.updates.transforms._decay import add_decayed_weights
from functional_train.updates.transforms._graft import GraftState, graft
from functional_train.updates.transforms._hutchinson import DiagonalFn, gauss_newton_bartlett, hutchinson
from functional_train.updates.transforms._inject import InjectedState, inject_hyperparams
from functional_train.updates.transforms._momentum import MomentumState, add_momentum
from functional_train.updates.transforms._param_groups import param_groups
from functional_train.updates.transforms._partition import PartitionState, freeze, masked, partition
from functional_train.updates.transforms._plateau import PlateauState, reduce_on_plateau
from functional_train.updates.transforms._scale import negate, scale_by_lr
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
    "AdaHessianState",
    "AdamState",
    "Aux",
    "BatchesError",
    "DiagonalFn",
    "Effects",
    "EmptyState",
    "Functional",
    "FunctionalTrainError",
    "GaLoreState",
    "GradFn",
    "GradientTransformation",
    "GraftState",
    "History",
    "Hyperparameter",
    "HyperparameterError",
    "ImmutableError",
    "InjectedState",
    "LossError",
    "LossFn",
    "MomentumState",
    "NonFiniteError",
    "OwnershipError",
    "Params",
    "PartitionState",
    "PathError",
    "PlateauState",
    "PsgdState",
    "PurityError",
    "Schedule",
    "ScheduledState",
    "ShampooState",
    "SoapState",
    "SophiaState",
    "StepFn",
    "StructureError",
    "TrainState",
    "UpdateFn",
    "adahessian",
    "adam",
    "adamw",
    "add_decayed_weights",
    "add_momentum",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "early_stopping",
    "fit",
    "fold",
    "freeze",
    "functionalize",
    "galore",
    "gauss_newton_bartlett",
    "grad",
    "grad_and_value",
    "graft",
    "hutchinson",
    "identity",
    "init_state",
    "inject_hyperparams",
    "iterate",
    "lora_init",
    "lora_merge",
    "make_step",
    "make_update",
    "masked",
    "merge",
    "mixed_precision",
    "named_chain",
    "negate",
    "param_groups",
    "partition",
    "plot",
    "psgd",
    "random",
    "record_effects",
    "reduce_on_plateau",
    "scale_by_adahessian",
    "scale_by_adam",
    "scale_by_lr",
    "scale_by_psgd",
    "scale_by_shampoo",
    "scale_by_soap",
    "scale_by_sophia",
    "scan",
    "schedules",
    "sgd",
    "shampoo",
    "soap",
    "sophia",
    "stateless",
    "static_field",
    "struct",
    "tree",
]
