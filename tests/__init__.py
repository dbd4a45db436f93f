"""Tests of functional_train and of the repository that holds it."""
