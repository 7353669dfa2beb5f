"""Keys of the pool's door and the log of who did what: two tables of the pool's database."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cluster.pool.database import Database

Role = Literal["member", "admin"]
"""``member``: what is its own team's; ``admin``: the jobs of all teams as well."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """An API key without the key itself. Times are in seconds since the epoch."""

    id: str
    team: str
    role: Role
    created: float
    expires: float | None
    revoked: float | None = None

    def is_valid(self, now: float) -> bool:
        """Whether the key lets anybody in."""
        return self.revoked is None and (self.expires is None or now < self.expires)

    @property
    def who(self) -> str:
        """The key's holder, for histories."""
        return f"{self.id} of {self.team}"


class AuditEntry(NamedTuple):
    """Something that somebody had the pool do."""

    number: int
    time: float
    who: str
    """``<key> of <team>`` at the door, ``<user>@<machine>`` on the cluster, as that client says it."""
    action: str
    subject: str


class Access:
    """The keys and the audit log in a pool's database. Not thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key: Key, key_hash: str) -> None:
        """Store a key by its hash; the same key again changes nothing."""
        with self._database.transaction():
            self._database.execute(
                "INSERT OR IGNORE INTO keys VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(key.id, key_hash, key.team, key.role, key.created, key.expires, key.revoked),
            )

    def all_keys(self) -> list[Key]:
        """All keys in the order of their making, revoked and expired ones included."""
        return self._keys("ORDER BY created, rowid")

    def find(self, key_hash: str) -> Key | None:
        """The valid key with a hash."""
        found = self._keys("WHERE hash = ?", key_hash)
        return found[0] if found and found[0].is_valid(time.time()) else None

    def revoke(self, key_id: str) -> Key:
        """Make a key invalid for good.

        Raises:
            ValueError: when there is no such key.
        """
        with self._database.transaction():
            self._database.execute(
                "UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", time.time(), key_id
            )
        found = self._keys("WHERE id = ?", key_id)
        if not found:
            raise ValueError(f"there is no key {key_id!r}: odeformer pool keys list shows them")
        return found[0]

    def note(self, who: str, action: str, subject: str) -> None:
        """Append to the audit log."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO audit (time, who, action, subject) VALUES (?, ?, ?, ?)",
                *(time.time(), who, action, subject),
            )

    def audit(self) -> list[AuditEntry]:
        """The audit log, oldest first."""
        rows = self._database.execute("SELECT number, time, who, action, subject FROM audit ORDER BY number")
        return [AuditEntry(*row) for row in rows]

    def _keys(self, rest: str, *values: str) -> list[Key]:
        rows = self._database.execute(
            f"SELECT id, team, role, created, expires, revoked FROM keys {rest}", *values
        )
        return [Key(**dict(row)) for row in rows]
