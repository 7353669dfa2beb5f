"""Analyses of models, and their pages."""
