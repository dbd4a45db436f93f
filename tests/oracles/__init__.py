"""Reference figures for optimizers, from libraries nobody here wrote.

`problem.py` states two problems that anybody can recompute: gradients given in advance, and a quadratic. `cases/` says
which optimizers of other libraries run on both, `make_figures.py` runs them in float64 and writes the parameters after
some of the steps to `figures/<library>.json`, and `load.py` reads those. Tests need the figures and torch only; the
other libraries (`pip install .[oracles]`) are needed to make the figures again:

    python -m tests.oracles.make_figures            # all libraries
    python -m tests.oracles.make_figures optax      # one of them

A case holds the `call` that made the optimizer, its `function` and `kwargs`, the `leaves` it covers, and per problem
the parameters after each step of `STEPS`, or a `reason` why there are none. Beside `params` stand `eval_params` where
the method has another point for evaluation. `rule` says where the library departs from the paper or from what a reader
would guess; `note` says how the figures were made when the call alone does not tell.

Numbers are `float.hex` without its "0x", joined by blanks, row by row; `float.fromhex` reads them back bit by bit.
"""
