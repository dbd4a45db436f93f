"""Tests of files that are what was saved."""
