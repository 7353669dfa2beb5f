"""Checkpoints of ``transformers``: export and import."""
