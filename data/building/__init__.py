"""From sources of text to a folder of shards, in steps that any number of workers can share."""
