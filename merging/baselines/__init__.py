"""Merges without training, and merges that match layers' outputs, for comparison."""
