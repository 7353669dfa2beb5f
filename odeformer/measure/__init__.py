"""Measuring a model: cost, memory, gradients, loss."""
