"""The pool's door: OpenAI's HTTP interface for files and fine-tuning jobs, with a key for each client."""
