"""The optimizers of torch.optim are torch's, option set by option set."""
