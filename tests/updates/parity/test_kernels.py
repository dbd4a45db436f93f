"""torch's kernels: where one does a whole update, `make_update` gives its very bits."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import functional_train as ft
from functional_train.updates.optimizers._adam import _plain
from functional_train.values.tree._fused import AdamNumbers, fused_adam
from tests.trees import assert_bitwise, assert_close, like, seeds, tensors
from tests.updates.parity.options import OPTION_SETS, trajectories

STATE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "sum")
WITH_KERNEL = [
    name
    for name, (info, _, _, kwargs) in OPTION_SETS.items()
    if "cpu" in info.supports_fused_on and "dampening" not in kwargs
]


@pytest.mark.parametrize("name", WITH_KERNEL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_whole_updates_are_torchs_fused_ones(name: str, dtype: torch.dtype) -> None:
    """Parameters and moments have the very bits of `fused=True`."""
    for params, state, expected, torchs in trajectories(name, 5, dtype, implementation={"fused": True}):
        assert_bitwise(params, expected)
        for part in STATE:
            moments = torchs.part(part)
            if any(moment is not None for moment in moments):
                ours = ft.tree.get(state, part)
                there = [place for place, moment in enumerate(moments) if moment is not None]
                assert_bitwise([ours[place] for place in there], [moments[place] for place in there])


@given(
    st.lists(tensors(), min_size=1, max_size=4),
    seeds(),
    st.booleans(),
    st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.99, 0.0)]),
    st.sampled_from([1e-8, 0.0, 0.1]),
    st.booleans(),
)
def test_the_two_ways_to_compute_adam_agree(
    params: Any, seed: int, amsgrad: bool, betas: Any, eps: float, absent: bool
) -> None:
    """torch's kernel and the arithmetic over trees give one direction and one set of moments."""
    grads = like(seed, params)
    if absent:
        grads[0] = None
    _, g = ft.tree.flat(params, grads)
    moments = [ft.tree.map(torch.abs, like(seed + place, params)) for place in range(3 if amsgrad else 2)]
    step = torch.arange(1, 1 + len(params))
    columns = g.beside(*moments)
    fused = fused_adam(g, columns, step, AdamNumbers(-1.0, betas, eps))
    if not g.leaves:
        assert fused is None
        return
    assert fused is not None
    plain = _plain(g, columns, step, betas, eps)
    assert_close(fused[0].tree(), plain[0].tree(), 1e-13)
    assert_close([column.tree() for column in fused[1]], [column.tree() for column in plain[1]], 1e-14)
