"""The policy: a language model that acts, and what makes its steps and passes fast."""
