"""Training runs and the fine-tuning pool: overhead, checkpoints, traffic, planning, failures."""
