"""A team's task, and the job that makes an adapter of it."""
