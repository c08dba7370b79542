"""Training: the loop, the optimiser, schedules, and what a run leaves behind."""
