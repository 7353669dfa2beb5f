"""Serving: one base model with all its adapters behind an OpenAI-compatible HTTP interface, at any depth."""
