"""What every run has: events, a lock, heartbeats, failures."""
