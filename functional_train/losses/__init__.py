"""LossFn -> LossFn: what is done to a loss before it is differentiated."""
