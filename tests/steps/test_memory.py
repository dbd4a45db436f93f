"""What a plain step frees is there for the next one, and does not go back to the system."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
import functional_train as ft

torch.set_num_threads(1)
# 3 MB in blocks of 256 kB: more than malloc would keep after having seen one of them.
params = {str(layer): torch.zeros(256, 256) for layer in range(4)}
optimizer = ft.adamw()
step = ft.make_step(ft.grad_and_value(lambda p, batch: sum([w.square().sum() for w in p.values()]) * batch), optimizer)
state = ft.init_state(params, optimizer)

def faults(take):
    global state
    for turn in range(60):
        if turn == 20:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        state, _ = take(state, torch.ones(()))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 40

print(faults(vars(step)["__wrapped__"]), faults(step))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators decide for themselves what they keep")
def test_steps_take_the_pages_that_steps_freed() -> None:
    """From its first turn on, a plain step of some MB has hardly a page fault; the step inside of it has some."""
    # Whoever told malloc what to keep is not overruled.
    told = ("MALLOC_", "GLIBC_TUNABLES")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    made = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    inside, plain = map(float, made.stdout.split())
    # Where pages are large, or kept anyway, neither has any.
    assert plain < max(inside / 3, 1)
