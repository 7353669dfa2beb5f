"""Experiments with compute that adapts to the input, measured and used by no preset."""
