"""Random numbers as pure functions of a key that somebody owns.

A key is an int64 tensor of shape (2,) that holds two 32-bit words. It gives the same bits on every device, batched and
compiled; so a key is used once, and `split` makes new ones. A draw encrypts the counters 0, 1, 2, ... with the key
(Threefry-2x32-20) and takes the first words of 16 blocks, their second words, those of the next 16, and so on; so what
`bits`, `uniform` or `normal` draws for a shape begins with what it draws for a smaller one. `split` and `fold_in`
encrypt counters whose two top bits are 10 and 11, which no draw reaches.

The public topic `ft.random`.
"""

from functional_train.values.random._discrete import bernoulli, categorical, choice, dropout, permutation, randint
from functional_train.values.random._floats import exponential, gumbel, normal, truncated_normal, uniform
from functional_train.values.random._keys import bits, fold_in, key, split
from functional_train.values.random._like import like
from functional_train.values.random._reuse import debug_key_reuse

__all__ = [
    "bernoulli",
    "bits",
    "categorical",
    "choice",
    "debug_key_reuse",
    "dropout",
    "exponential",
    "fold_in",
    "gumbel",
    "key",
    "like",
    "normal",
    "permutation",
    "randint",
    "split",
    "truncated_normal",
    "uniform",
]
