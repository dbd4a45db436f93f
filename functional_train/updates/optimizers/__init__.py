"""Named optimizers: chains of small transformations, one family a file."""
