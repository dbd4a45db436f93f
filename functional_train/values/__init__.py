"""What state is made of: trees of tensors, immutable containers, keys, and the errors about them."""
