"""StepFn -> StepFn: one graph for the whole step, its state moved instead of copied."""
