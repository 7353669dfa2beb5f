"""Fine-tuning sets: from a team's file to batches in which only what is to be learned counts."""
