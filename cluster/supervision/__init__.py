"""Supervision of a run: starting, watching, stopping and restarting its worker groups."""
