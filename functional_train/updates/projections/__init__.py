"""Projections of trees: the nearest point of a set, all leaves taken as one vector.

The public topic `ft.projections`. Each is a pure function of real floating leaves, `None` absorbs, and numbers that say
how large the set is may be 0-d tensors. `ft.project` holds parameters in such a set while they are trained.
"""

from functional_train.updates.projections._bounds import box, hypercube, linf_ball, non_negative
from functional_train.updates.projections._norms import l1_ball, l1_sphere, l2_ball, l2_sphere, simplex
from functional_train.updates.projections._planes import halfspace, hyperplane, line

__all__ = [
    "box",
    "halfspace",
    "hypercube",
    "hyperplane",
    "l1_ball",
    "l1_sphere",
    "l2_ball",
    "l2_sphere",
    "line",
    "linf_ball",
    "non_negative",
    "simplex",
]
