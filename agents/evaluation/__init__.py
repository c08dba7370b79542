"""Evaluation: scores on held-out examples, and comparisons of several policies."""
