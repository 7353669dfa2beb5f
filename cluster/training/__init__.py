"""Training on the workers of a run: the loop, DeepSpeed, guards, validation."""
