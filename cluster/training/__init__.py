"""What the workers of a run do together: the loop, DeepSpeed, guards, validation."""
