"""Tests of functional_train.models."""
