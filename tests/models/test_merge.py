"""`merge` gives a module back that holds the values."""

import pytest

from functional_train.models import functionalize, merge
from tests.models.cases import CASES, assert_same, assert_unchanged, make, snapshot


@pytest.mark.parametrize("case", sorted(set(CASES) - {"traced"}))
def test_merge_gives_a_module_that_holds_the_values(case: str) -> None:
    """merge changes nothing, keeps ties and flags, and functionalize gives the values back."""
    module, x = make(case)
    apply, params, buffers = functionalize(module.eval())
    next(module.parameters()).requires_grad_(False)
    params, buffers = ({k: v * 2 if v.is_floating_point() else v for k, v in t.items()} for t in (params, buffers))
    before = snapshot(module, params, buffers)
    merged = merge(module, params, buffers)
    own = merge(module, params)
    assert_unchanged(before, snapshot(module, params, buffers))
    assert type(merged) is type(module)
    assert not any(submodule.training for submodule in merged.modules())
    assert [p.requires_grad for p in merged.parameters()] == [p.requires_grad for p in module.parameters()]
    assert_same([*functionalize(own).buffers.values(), x], [*module.buffers(), x])
    _, again, buffers_again = functionalize(merged)
    assert list(again) == list(params)
    assert_same([*again.values(), *buffers_again.values()], [*params.values(), *buffers.values()])
    assert_same(merged(x), apply(dict(merged.named_parameters()), x, buffers=buffers, train=False)[0])
    given = {tensor.data_ptr() for tensor in (*params.values(), *buffers.values(), *module.parameters())}
    assert not given & {tensor.data_ptr() for tensor in (*merged.parameters(), *merged.buffers())}
