"""Connecting to Ray, and submitting jobs to it."""
