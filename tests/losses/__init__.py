"""Tests of the folder `functional_train/losses`."""
