"""Tests of the folder `functional_train/runs`."""
