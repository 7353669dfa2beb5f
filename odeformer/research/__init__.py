"""What was tried and measured and is in no preset: compute that adapts to the input."""
