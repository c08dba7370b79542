"""Machinery of incremental scores: splitters, automata, units, n-grams, alignments."""
