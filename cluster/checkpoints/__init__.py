"""Committed checkpoints: the complete state of a run at one step, written atomically and durably."""
