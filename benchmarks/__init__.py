"""Measurements, each with a command, and their results in results/."""
