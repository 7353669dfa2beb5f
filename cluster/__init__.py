"""Where the work runs: Ray places it, DeepSpeed shards it, MLflow remembers it."""
