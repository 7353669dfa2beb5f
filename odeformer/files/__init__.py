"""File operations that all four packages use: atomic writes, digests, locks and checks."""
