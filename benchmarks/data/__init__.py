"""Building shards, reading them, and the order of samples."""
