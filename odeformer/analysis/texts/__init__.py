"""A model's behavior on whole texts: robustness and drift."""
