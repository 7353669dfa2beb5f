"""Tables of the keys of the pool's door, and of who did what."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.table import Table

from cluster.pool.access import AuditEntry, Key
from launcher.terminal.console import make_table


def keys_table(keys: Sequence[Key]) -> Table:
    """A row for each key."""
    table = make_table("key", "team", "role", "made", "ends", "state")
    now = time.time()
    for key in keys:
        state = "revoked" if key.revoked is not None else "valid" if key.is_valid(now) else "expired"
        ends = "" if key.expires is None else _at(key.expires)
        table.add_row(key.id, key.team, key.role, _at(key.created), ends, state)
    return table


def audit_table(entries: Sequence[AuditEntry]) -> Table:
    """A row for each entry of the audit log."""
    table = make_table("time", "who", "did", wrapped=("what",))
    for entry in entries:
        table.add_row(_at(entry.time), entry.who, entry.action, entry.subject)
    return table


def _at(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
