"""From a training run of `torch.optim` to values, and back."""
