"""Make the figures again: `python -m tests.oracles.make_figures [library ...]`. Needs the extra `oracles`."""

import importlib
import sys

from tests.oracles.load import LIBRARIES


def main(libraries: list[str]) -> None:
    """Run the oracles of the libraries, of all by default."""
    for library in libraries or LIBRARIES:
        importlib.import_module(f"tests.oracles._{library}").make()


if __name__ == "__main__":
    main(sys.argv[1:])
