"""What the workers of a run do together: the loop, DeepSpeed, committed checkpoints, validation."""
