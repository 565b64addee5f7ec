"""The audit: threat models, the runner, metrics and results."""
