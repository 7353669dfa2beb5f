"""Tasks of teams: their settings, examples and scores."""
