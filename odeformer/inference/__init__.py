"""Running a model: decoding, sampling, batches of requests."""
