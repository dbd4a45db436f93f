"""Pictures of values: functions that return a matplotlib figure.

The public topic `ft.plot`. It needs matplotlib, leaves pyplot alone, and shows a figure that is the last value of a
notebook cell. `figure.savefig("loss.png")` writes one to disk.
"""

from functional_train.plot.comparisons import compare, trajectories
from functional_train.plot.curves import history, schedule
from functional_train.plot.effects import effects

__all__ = ["compare", "effects", "history", "schedule", "trajectories"]
