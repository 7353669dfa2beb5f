"""Adapters measured: what a step costs, how much of full fine-tuning they gain, what sharing a pass saves."""
