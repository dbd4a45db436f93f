"""A run: a fold with progress, evaluation, records and an orderly end."""
