"""Our training beside the loop that everybody writes."""
