"""Runs on a cluster: Ray places the work, DeepSpeed shards it, MLflow keeps the results."""
