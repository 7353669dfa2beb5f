"""Faithfulness of attributions, and the cost of an analysis."""
