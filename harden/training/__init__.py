"""Training: the loop, schedules, averaging, the canary, checkpoints and the history."""
