"""Data as a function: the batch at a position depends on a key and on that position, and on nothing else.

The public topic `ft.data`. The position is `state.step`, so a run that is resumed needs no other record of its place.
"""

from functional_train.runs.data._batches import Batches
from functional_train.runs.data._loader import Loader
from functional_train.runs.data._shuffle import shuffled

__all__ = ["Batches", "Loader", "shuffled"]
