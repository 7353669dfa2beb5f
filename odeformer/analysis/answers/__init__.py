"""Explaining one answer of a model."""
