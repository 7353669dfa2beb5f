"""A model's behaviour on whole texts: robustness and drift."""
