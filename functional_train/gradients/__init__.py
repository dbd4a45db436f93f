"""LossFn -> GradFn: slopes of losses."""
