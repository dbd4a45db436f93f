"""Small transformations of gradients, one recurrence a file."""
