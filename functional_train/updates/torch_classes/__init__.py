"""Optimizers written as classes of torch, as pure transformations."""
