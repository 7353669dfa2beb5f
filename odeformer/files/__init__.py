"""What all four packages do with files: replace them whole, tell them apart, lock and check them."""
