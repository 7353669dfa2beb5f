"""Adapters: cost of a step, gain against full fine-tuning, joint training of several jobs."""
