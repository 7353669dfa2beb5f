"""Fewer words from ``transformers``."""

from transformers.utils import logging


def silence() -> None:
    """Turn off progress bars, and warnings about unused parts of a file."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
