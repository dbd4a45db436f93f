"""Tests of batches as a function of their position."""
