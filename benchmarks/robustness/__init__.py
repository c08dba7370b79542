"""Tests of robustness: runs that are killed, folders that others change, and arguments that make no sense."""
