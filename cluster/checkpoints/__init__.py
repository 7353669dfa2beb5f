"""Committed checkpoints: all of a run at one step, on the disk, whole or not at all."""
