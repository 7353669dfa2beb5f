"""Perplexity of continuous-depth models against ordinary ones, and of imported checkpoints."""
