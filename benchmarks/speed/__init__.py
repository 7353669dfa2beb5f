"""Tokens per second of generation, small weight formats, start-up of the command line."""
