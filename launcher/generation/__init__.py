"""Generation of text with a model."""
