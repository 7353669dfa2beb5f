"""API keys: made at random, shown once, and kept as hashes."""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "ode-"


def new_key() -> str:
    """A new key, which its maker shows once and does not store."""
    return PREFIX + secrets.token_urlsafe(32)


def hashed(key: str) -> str:
    """What is stored of a key: its SHA-256 in hexadecimal."""
    # A key has 256 random bits: a slow hash, as for passwords, would protect nothing more.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def key_of(authorization: str) -> str | None:
    """The key in a header ``Authorization: Bearer KEY``; None for anything else."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None
