"""Schedules: pure functions from the count of updates to a value.

The public topic `ft.schedules`. A step is a Python int or an integer tensor of any shape; the value is float64 of that
shape. Values, factors and exponents may be 0-d tensors, to be mapped over or differentiated; counts are Python ints. A
schedule remembers nothing, so a run that is resumed at a step has the value of that step. Any other function of a step
is a schedule too.

torch.optim.lr_scheduler multiplies the learning rate of an optimizer, here `lr`, and each class has its function:

| torch.optim.lr_scheduler                   | ft.schedules                                                  |
|--------------------------------------------|---------------------------------------------------------------|
| ChainedScheduler                           | mul(lr, factor, ...)                                          |
| ConstantLR(factor, total_iters)            | join([factor * lr, lr], [total_iters])                        |
| CosineAnnealingLR(T_max, eta_min)          | cosine_annealing(lr, T_max, eta_min); cosine stops at T_max   |
| CosineAnnealingWarmRestarts(T_0, T_mult)   | warm_restarts(lr, T_0, T_mult)                                |
| CyclicLR(base_lr, max_lr, up, down, mode)  | cyclic(base_lr, max_lr, up, down, mode)                       |
| ...its momentum                            | cyclic(max_momentum, base_momentum, up, down, mode)           |
| ExponentialLR(gamma)                       | exponential(lr, gamma)                                        |
| LambdaLR(fn)                               | mul(lr, fn)                                                   |
| LinearLR(a, b, total_iters)                | linear(a * lr, b * lr, total_iters)                           |
| MultiplicativeLR(fn)                       | multiplicative(lr, fn, num_steps)                             |
| MultiStepLR(milestones, gamma)             | piecewise_constant(lr, milestones, gamma)                     |
| OneCycleLR(max_lr, total_steps)            | one_cycle(max_lr, total_steps)                                |
| ...its momentum                            | one_cycle(base_momentum, total_steps, *[max_momentum] * 2)    |
| PolynomialLR(total_iters, power)           | polynomial(lr, 0.0, total_iters, power)                       |
| ReduceLROnPlateau                          | ft.reduce_on_plateau, which looks at the loss                 |
| SequentialLR(schedulers, milestones)       | join(schedules, milestones)                                   |
| StepLR(step_size, gamma)                   | exponential(lr, gamma, step_size, staircase=True)             |
| swa_utils.SWALR(swa_lr, n, "cos")          | cosine(lr, n, swa_lr)                                         |
| swa_utils.SWALR(swa_lr, n, "linear")       | linear(lr, swa_lr, n)                                         |

Optax returns values too. The milestones of its onecycles are rounded down:

| optax                                          | ft.schedules                                                       |
|------------------------------------------------|--------------------------------------------------------------------|
| any with transition_begin                      | shift(schedule, transition_begin)                                  |
| cosine_decay_schedule(v, n, alpha, power)      | cosine(v, n, alpha * v, power)                                     |
| cosine_onecycle_schedule(n, p, a, d, f)        | piecewise_interpolate(p / d, (a * n, n), (d, 1 / d / f), "cosine") |
| exponential_decay(v, n, rate, end_value=e)     | exponential(v, rate, n, e)                                         |
| join_schedules(schedules, boundaries)          | join(schedules, boundaries)                                        |
| linear_onecycle_schedule(n, p, a, b, d, f)     | piecewise_interpolate(p / d, (a * n, b * n, n), (d, 1 / d, 1 / f)) |
| piecewise_constant_schedule(v, {m: g})         | piecewise_constant(v, (m,), (g,))                                  |
| piecewise_interpolate_schedule(how, v, {m: g}) | piecewise_interpolate(v, (m,), (g,), how)                          |
| polynomial_schedule(v, e, power, n)            | polynomial(v, e, n, power)                                         |
| sgdr_schedule                                  | join of warmup_cosine                                              |
| warmup_constant_schedule(v, p, w)              | warmup(p, w, v)                                                    |
| warmup_cosine_decay_schedule(v, p, w, n, e)    | warmup_cosine(p, w, n, v, e)                                       |
| warmup_exponential_decay_schedule(v, p, w)     | warmup(exponential(p, ...), w, v)                                  |
"""

from functional_train.updates.schedules._arithmetic import add, clip, mul
from functional_train.updates.schedules._cosine import cosine, cosine_annealing, warm_restarts
from functional_train.updates.schedules._cyclic import cyclic, one_cycle
from functional_train.updates.schedules._decay import inverse_sqrt, rex
from functional_train.updates.schedules._exponential import exponential, multiplicative
from functional_train.updates.schedules._linear import constant, linear, polynomial
from functional_train.updates.schedules._piecewise import piecewise_constant, piecewise_interpolate
from functional_train.updates.schedules._time import join, repeat, shift
from functional_train.updates.schedules._warmup import warmup, warmup_cosine, warmup_stable_decay

__all__ = [
    "add",
    "clip",
    "constant",
    "cosine",
    "cosine_annealing",
    "cyclic",
    "exponential",
    "inverse_sqrt",
    "join",
    "linear",
    "mul",
    "multiplicative",
    "one_cycle",
    "piecewise_constant",
    "piecewise_interpolate",
    "polynomial",
    "repeat",
    "rex",
    "shift",
    "warm_restarts",
    "warmup",
    "warmup_cosine",
    "warmup_stable_decay",
]
