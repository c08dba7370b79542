"""Single questions that no suite of experiments can ask."""
