"""Images and labels: one file per layout, splits, and the decoded cache."""
