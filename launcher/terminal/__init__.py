"""Progress and text in the terminal."""
