"""Agents on suites of experiments: which learns what, at what cost, with what certainty."""
