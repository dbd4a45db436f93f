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
from functional_train.updates.optimizers._adabelief import adabelief, scale_by_belief
from functional_train.updates.optimizers._adadelta import AdadeltaState, adadelta, scale_by_adadelta
from functional_train.updates.optimizers._adagrad import AdagradState, adagrad, scale_by_adagrad
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
from functional_train.updates.optimizers._lamb import lamb
from functional_train.updates.optimizers._laprop import laprop, scale_by_laprop
from functional_train.updates.optimizers._lars import lars
from functional_train.updates.optimizers._lion import LionState, lion, scale_by_lion
from functional_train.updates.optimizers._mars import VarianceReductionState, mars, reduce_variance
from functional_train.updates.optimizers._nadam import NAdamState, nadam, scale_by_nadam
from functional_train.updates.optimizers._novograd import LayerNormState, novograd, scale_by_layer_norm
from functional_train.updates.optimizers._radam import RAdamState, radam, scale_by_radam
from functional_train.updates.optimizers._rmsprop import RMSpropState, rmsprop, scale_by_rmsprop
from functional_train.updates.optimizers._rprop import RpropState, rprop, scale_by_rprop
from functional_train.updates.optimizers._sgd import sgd
from functional_train.updates.optimizers._signum import (
    SignumState,
    scale_by_sign,
    scale_by_signum,
    sign_sgd,
    signum,
    tiger,
)
from functional_train.updates.optimizers._stable_adamw import scale_by_stable_adam, stable_adamw
from functional_train.updates.optimizers._yogi import scale_by_yogi, yogi
from functional_train.updates.torch_classes.wrap import TorchClassState, wrap_torch_optimizer
from functional_train.updates.transformation import EmptyState, GradientTransformation, stateless
from functional_train.updates.transforms._cautious import add_cautious_decay, cautious
from functional_train.updates.transforms._clip import clip_by_global_norm
from functional_train.updates.transforms._decay import add_decayed_weights
from functional_train.updates.transforms._grokfast import GrokfastEMAState, GrokfastMAState, grokfast_ema, grokfast_ma
from functional_train.updates.transforms._inject import InjectedState, inject_hyperparams
from functional_train.updates.transforms._moments import MomentsState
from functional_train.updates.transforms._momentum import MomentumState, add_momentum
from functional_train.updates.transforms._param_groups import param_groups
from functional_train.updates.transforms._partition import PartitionState, freeze, masked, partition
from functional_train.updates.transforms._plateau import PlateauState, reduce_on_plateau
from functional_train.updates.transforms._scale import negate, scale_by_lr
from functional_train.updates.transforms._trust_ratio import scale_by_trust_ratio
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
    "ASGDState",
    "AdEMAMixState",
    "AdadeltaState",
    "AdagradState",
    "AdamState",
    "AdamaxState",
    "AdanState",
    "Aux",
    "BatchesError",
    "CAMEState",
    "Effects",
    "EmptyState",
    "Functional",
    "FunctionalTrainError",
    "GradFn",
    "GradientTransformation",
    "GrokfastEMAState",
    "GrokfastMAState",
    "History",
    "Hyperparameter",
    "HyperparameterError",
    "ImmutableError",
    "InjectedState",
    "LayerNormState",
    "LionState",
    "LossError",
    "LossFn",
    "MomentsState",
    "MomentumState",
    "NAdamState",
    "NonFiniteError",
    "OwnershipError",
    "Params",
    "PartitionState",
    "PathError",
    "PlateauState",
    "PurityError",
    "RAdamState",
    "RMSpropState",
    "RpropState",
    "Schedule",
    "ScheduledState",
    "SignumState",
    "StepFn",
    "StructureError",
    "TorchClassState",
    "TrainState",
    "UpdateFn",
    "VarianceReductionState",
    "adabelief",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "add_cautious_decay",
    "add_decayed_weights",
    "add_momentum",
    "ademamix",
    "adopt",
    "apply_updates",
    "asgd",
    "came",
    "cautious",
    "chain",
    "clip_by_global_norm",
    "early_stopping",
    "fit",
    "fold",
    "freeze",
    "functionalize",
    "grad",
    "grad_and_value",
    "grokfast_ema",
    "grokfast_ma",
    "identity",
    "init_state",
    "inject_hyperparams",
    "iterate",
    "lamb",
    "laprop",
    "lars",
    "lion",
    "lora_init",
    "lora_merge",
    "make_step",
    "make_update",
    "mars",
    "masked",
    "merge",
    "mixed_precision",
    "nadam",
    "named_chain",
    "negate",
    "novograd",
    "param_groups",
    "partition",
    "plot",
    "radam",
    "random",
    "record_effects",
    "reduce_on_plateau",
    "reduce_variance",
    "rmsprop",
    "rprop",
    "scale_by_adadelta",
    "scale_by_adagrad",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_asgd",
    "scale_by_belief",
    "scale_by_came",
    "scale_by_laprop",
    "scale_by_layer_norm",
    "scale_by_lion",
    "scale_by_lr",
    "scale_by_nadam",
    "scale_by_radam",
    "scale_by_rmsprop",
    "scale_by_rprop",
    "scale_by_sign",
    "scale_by_signum",
    "scale_by_simplified_ademamix",
    "scale_by_stable_adam",
    "scale_by_trust_ratio",
    "scale_by_yogi",
    "scan",
    "schedules",
    "sgd",
    "sign_sgd",
    "signum",
    "simplified_ademamix",
    "stable_adamw",
    "stateless",
    "static_field",
    "struct",
    "tiger",
    "tree",
    "wrap_torch_optimizer",
    "yogi",
]
