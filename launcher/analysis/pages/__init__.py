"""HTML pages of analyses, drawn from the content of their JSON files alone."""
