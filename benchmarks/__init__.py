"""Measurements: one file a question, each with a command, its results in results/."""
