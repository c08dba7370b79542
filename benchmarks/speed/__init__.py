"""Speed of environments, scores, rollouts and updates, beside that of other libraries."""
