"""Tokens per second of training and generation, small weight formats, start-up of the command line."""
