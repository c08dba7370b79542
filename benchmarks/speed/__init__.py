"""How fast environments, scores, rollouts and updates are, beside what others have."""
