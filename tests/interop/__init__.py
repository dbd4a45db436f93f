"""Tests of functional_train.interop."""
