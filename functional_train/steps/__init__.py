"""StepFn: one pure step of training, and folds of it."""
