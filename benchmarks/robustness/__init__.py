"""Tests of robustness: runs that are killed, and arguments that make no sense."""
