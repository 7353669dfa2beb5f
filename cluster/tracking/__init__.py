"""What MLflow knows of a run."""
