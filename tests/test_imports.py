"""What an import of the library brings along."""

import subprocess
import sys

HEAVY = ("torch._dynamo", "torch._inductor", "sympy", "matplotlib", "pandas", "transformers", "sklearn", "jax")


def test_the_import_is_light() -> None:
    """Compilers, plots and data come when they are asked for; here they would take seconds and a hundred megabytes."""
    code = f"import sys, functional_train; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
