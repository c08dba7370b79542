"""Algorithms: siblings, each of which reads from top to bottom."""
