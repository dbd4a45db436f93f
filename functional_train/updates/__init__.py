"""GradientTransformation: from gradients to what is added to parameters."""
