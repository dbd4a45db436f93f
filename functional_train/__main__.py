"""`python -m functional_train`: the demo."""

import sys

import torch

from functional_train.demo.cli import main

if __name__ == "__main__":
    # Sums then keep their order whatever the number of cores, and models this small gain little from more threads.
    torch.set_num_threads(1)
    sys.exit(main())
