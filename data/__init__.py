"""From text files to verified token shards, and from those to a deterministic stream of batches."""
