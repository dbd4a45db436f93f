"""Averages of the parameters along the way."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import check_count, check_fraction
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import GradientTransformation, check_state, watching, zero_step_per_leaf
from functional_train.values import tree
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._structure import children
from functional_train.values.types import Hyperparameter, Tree


class AverageState(NamedTuple):
    """The average of the parameters so far.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        average: Like params; the first parameters before any update.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.ema_params().init({"w": torch.ones(1)}).average
        {'w': tensor([1.])}
    """

    step: Tensor
    average: Tree


def average_params(
    weight_fn: Callable[[Tensor], Tensor], *, dtype: torch.dtype | None = None
) -> GradientTransformation:
    r"""Watch where updates lead, and keep an average: $a \leftarrow a + w_t (\theta_t - a)$.

    Place it last in a chain. Updates pass through as they are; `averaged_params` reads the average from the state.

    Args:
        weight_fn: From the number of the update, 1 at the first, to the weight of the parameters after it, in [0, 1];
            elementwise on int64 tensors of any shape.
        dtype: Of the average; by default that of each parameter. float32 is wise where that has 16 bits.

    Returns:
        Transformation with `AverageState`. A leaf whose gradient is `None` keeps its state and does not count the
        update.

    Raises:
        StructureError: at the update: params are missing, or the state is another transformation's.

    Source: Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging", with $w_t = 1/t$.

    Differs: `torch.optim.swa_utils.AveragedModel` averages buffers too when asked; see `incremental_update` for those,
        and `update_bn` for the statistics of BatchNorm.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.chain(ft.sgd(1.0), ft.average_params(lambda number: 1 / number))
        >>> params, state = torch.zeros(1), optimizer.init(torch.zeros(1))
        >>> for _ in range(3):
        ...     params, state = ft.make_update(optimizer)(torch.ones(1), state, params)
        >>> params, ft.averaged_params(state)
        (tensor([-3.]), tensor([-2.]))
    """

    def init(params: Tree) -> AverageState:
        step = zero_step_per_leaf(params)
        return AverageState(step, tree.copy(params) if dtype is None else tree.copy(tree.to(params, dtype)))

    def watch(new: Flat, state: AverageState, **extra: Any) -> AverageState:
        del extra
        check_state(state, AverageState)
        (average,) = new.beside(state.average)
        step = new.counted(state.step)
        average = tree.lerp(average, new, average.spread(weight_fn(step)))
        return AverageState(step, average.tree(absent=state.average))

    return GradientTransformation(init, watching(watch, "an average of parameters"))


@partial(schedulable, watches=True)
def ema_params(
    decay: Hyperparameter = 0.999, debias: bool = False, *, dtype: torch.dtype | None = None
) -> GradientTransformation:
    r"""Watch where updates lead, and keep an exponential moving average: $a \leftarrow d a + (1 - d) \theta_t$.

    The average begins as the parameters after the first update.

    Args:
        decay: Weight of the past, in [0, 1). Dimensionless.
        debias: Whether the first parameters weigh no more than they would in an average that began long ago: the weight
            of $\theta_t$ is then $(1 - d) / (1 - d^t)$, as in Adam's correction.
        dtype: As `average_params`.

    Returns:
        As `average_params`, or `ScheduledState` around it when `decay` is a schedule.

    Raises:
        HyperparameterError: decay is outside [0, 1).

    Source: torch.optim.swa_utils, `get_ema_multi_avg_fn`; Ruppert 1988, "Efficient estimations from a slowly convergent
        Robbins-Monro process"; the correction is section 3 of Kingma & Ba 2015, arXiv:1412.6980.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.chain(ft.sgd(1.0), ft.ema_params(0.5))
        >>> params, state = torch.zeros(1), optimizer.init(torch.zeros(1))
        >>> for _ in range(2):
        ...     params, state = ft.make_update(optimizer)(torch.ones(1), state, params)
        >>> params, ft.averaged_params(state)
        (tensor([-2.]), tensor([-1.5000]))
    """
    past = check_fraction("decay", decay, "With 1.0 the average never moves; 0.999 is usual.")

    def weight(number: Tensor) -> Tensor:
        if debias:
            return (1 - past) / (1 - past ** number.double())
        return torch.where(number == 1, 1.0, (1 - past) * torch.ones_like(number, dtype=torch.float64))

    return average_params(weight, dtype=dtype)


def swa_params(
    start: int | Tensor = 0, every: int | Tensor = 1, *, dtype: torch.dtype | None = None
) -> GradientTransformation:
    r"""Watch where updates lead, and keep the plain mean of the parameters after some of them.

    These are the updates start + every, start + 2 every, and so on. Until the first of them the average is the
    parameters themselves.

    Args:
        start: Updates before averaging begins, at least 0.
        every: Updates from one that counts to the next, at least 1; the length of a cycle of the learning rate.
        dtype: As `average_params`.

    Returns:
        As `average_params`.

    Raises:
        HyperparameterError: start or every is not a whole number in its range.

    Source: Izmailov et al. 2018, arXiv:1803.05407, Algorithm 1; torch.optim.swa_utils, `get_swa_multi_avg_fn`.

    Differs: from Algorithm 1, in which the parameters that it begins with count too; from torch's function of many
        leaves, which rounds $1 / t$ to float32.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.chain(ft.sgd(1.0), ft.swa_params(start=1, every=2))
        >>> params, state = torch.zeros(1), optimizer.init(torch.zeros(1))
        >>> for _ in range(5):
        ...     params, state = ft.make_update(optimizer)(torch.ones(1), state, params)
        >>> ft.averaged_params(state)
        tensor([-4.])
    """
    first = check_count("start", start, 0)
    period = check_count("every", every, 1)

    def weight(number: Tensor) -> Tensor:
        num_averaged = torch.div(number - first, period, rounding_mode="floor")
        counts = (number - first) % period == 0
        # Computed in float64, whatever torch's default is.
        mean = counts.double() / torch.clamp(num_averaged, min=1).double()
        return torch.where(num_averaged < 1, 1.0, mean)

    return average_params(weight, dtype=dtype)


def averaged_params(opt_state: Tree) -> Tree:
    """Read the average of the parameters from an optimizer state.

    Args:
        opt_state: State in which one of `ema_params`, `swa_params` and `average_params` has its part, at any depth.

    Returns:
        A tree like the parameters.

    Raises:
        StructureError: no part of the state is an average, or several are.

    Source: torch.optim.swa_utils, `AveragedModel.module`, is the same for modules.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.chain(ft.adam(), ft.ema_params())
        >>> ft.averaged_params(optimizer.init({"w": torch.ones(1)}))
        {'w': tensor([1.])}
    """
    found = list(_averages(opt_state))
    if len(found) != 1:
        raise StructureError(
            f"averaged_params needs a state with one average, and found {len(found)}. "
            "Put one ft.ema_params() or ft.swa_params() last in the chain; of several, pass the part that is meant."
        )
    return found[0].average


def _averages(node: Tree) -> Iterator[AverageState]:
    if isinstance(node, AverageState):
        yield node
        return
    for _, child in children(node) or ():
        yield from _averages(child)
