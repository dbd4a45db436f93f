"""Writes optax_schedules.json, the values of Optax's schedules, for test_schedules_optax.py.

Run in an environment of its own: `pip install jax optax`, then `python tests/updates/optax_schedules.py`.
"""

import json
from pathlib import Path
from typing import Any

STEPS = [*range(45), 60, 1000]
# Keys of JSON are strings, so a mapping from a boundary to a factor is a list of pairs.
CASES: dict[str, list[dict[str, Any]]] = {
    "constant_schedule": [{"value": 0.3}],
    "linear_schedule": [
        {"init_value": 0.1, "end_value": 0.7, "transition_steps": 13},
        {"init_value": 1.0, "end_value": 1e-4, "transition_steps": 20, "transition_begin": 7},
    ],
    "polynomial_schedule": [
        {"init_value": 1.0, "end_value": 0.01, "power": 2, "transition_steps": 17},
        {"init_value": 0.2, "end_value": 0.9, "power": 0.5, "transition_steps": 11, "transition_begin": 4},
        {"init_value": 1.0, "end_value": 0.1, "power": 3.5, "transition_steps": 30, "transition_begin": 1},
    ],
    "exponential_decay": [
        {"init_value": 1.0, "transition_steps": 5, "decay_rate": 0.7},
        {"init_value": 1.0, "transition_steps": 7, "decay_rate": 0.5, "transition_begin": 3, "staircase": True},
        {"init_value": 1.0, "transition_steps": 4, "decay_rate": 0.3, "end_value": 0.05},
        {"init_value": 0.1, "transition_steps": 4, "decay_rate": 1.5, "transition_begin": 6, "end_value": 2.0},
    ],
    "cosine_decay_schedule": [
        {"init_value": 0.8, "decay_steps": 23},
        {"init_value": 0.8, "decay_steps": 23, "alpha": 0.1, "exponent": 2.0},
        {"init_value": 2.0, "decay_steps": 9, "alpha": 0.5, "exponent": 1.3},
    ],
    "piecewise_constant_schedule": [
        {"init_value": 1.0, "boundaries_and_scales": [[5, 0.5], [20, 0.1], [30, 3.0]]},
        {"init_value": 0.7, "boundaries_and_scales": []},
    ],
    "piecewise_interpolate_schedule": [
        {"interpolate_type": "linear", "init_value": 1.0, "boundaries_and_scales": [[4, 0.1], [8, 0.01]]},
        {"interpolate_type": "cosine", "init_value": 0.3, "boundaries_and_scales": [[0, 2.0], [9, 3.0], [40, 0.2]]},
    ],
    "linear_onecycle_schedule": [
        {"transition_steps": 40, "peak_value": 1.0},
        {"transition_steps": 33, "peak_value": 0.3, "pct_start": 0.4, "pct_final": 0.7, "div_factor": 10.0},
    ],
    "cosine_onecycle_schedule": [
        {"transition_steps": 40, "peak_value": 1.0},
        {"transition_steps": 33, "peak_value": 0.3, "pct_start": 0.21, "div_factor": 10.0, "final_div_factor": 50.0},
    ],
    "warmup_constant_schedule": [{"init_value": 0.1, "peak_value": 0.9, "warmup_steps": 12}],
    "warmup_cosine_decay_schedule": [
        {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 8, "decay_steps": 40},
        {
            "init_value": 0.1,
            "peak_value": 0.6,
            "warmup_steps": 5,
            "decay_steps": 30,
            "end_value": 0.05,
            "exponent": 2.0,
        },
    ],
    "warmup_exponential_decay_schedule": [
        {
            "init_value": 0.1,
            "peak_value": 1.0,
            "warmup_steps": 6,
            "transition_steps": 5,
            "decay_rate": 0.6,
            "transition_begin": 4,
            "staircase": True,
            "end_value": 0.1,
        },
        {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 6, "transition_steps": 5, "decay_rate": 0.6},
    ],
    "sgdr_schedule": [
        {
            "cosine_kwargs": [
                {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 3, "decay_steps": 10, "end_value": 0.1},
                {"init_value": 0.1, "peak_value": 0.8, "warmup_steps": 4, "decay_steps": 20},
                {"init_value": 0.0, "peak_value": 0.5, "warmup_steps": 2, "decay_steps": 12, "exponent": 2.0},
            ]
        }
    ],
}


def main() -> None:
    """Evaluate every case in float64."""
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    rows: list[dict[str, Any]] = []
    for name, cases in CASES.items():
        for kwargs in cases:
            given = dict(kwargs)
            if "boundaries_and_scales" in given:
                given["boundaries_and_scales"] = dict(map(tuple, given["boundaries_and_scales"]))
            schedule = getattr(optax, name)(**given)
            values = [float(schedule(jax.numpy.asarray(step, dtype="int64"))) for step in STEPS]
            rows.append({"name": name, "kwargs": kwargs, "values": values})
    made = {"optax": optax.__version__, "jax": jax.__version__, "steps": STEPS}
    lines = ",\n".join("    " + json.dumps(row) for row in rows)
    head = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in made.items())
    path = Path(__file__).with_suffix(".json")
    path.write_text("{\n" + head + '  "rows": [\n' + lines + "\n  ]\n}\n")


if __name__ == "__main__":
    main()
