"""Data for fine-tuning: examples from files, and batches whose loss counts the tokens to be learned."""
