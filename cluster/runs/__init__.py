"""The bookkeeping of every run: events, a lock, heartbeats, failures."""
