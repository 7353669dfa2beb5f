"""Fine-tuning of a base model on a team's task."""
