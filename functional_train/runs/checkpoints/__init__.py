"""Values on disk: files that are what was saved, or do not load."""
