"""Supervised training: on demonstrations, and on pairs of responses."""
