"""Scoring models on texts and tasks."""
