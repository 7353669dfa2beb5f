"""Tables of the keys of the pool's door, and of who did what."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.table import Table

from cluster.pool.access import AuditEntry, Key
from launcher.terminal.console import make_table
from launcher.terminal.durations import moment


def keys_table(keys: Sequence[Key]) -> Table:
    """A row for each key."""
    table = make_table("key", "team", "role", "made", "ends", "state")
    now = time.time()
    for key in keys:
        state = "revoked" if key.revoked is not None else "valid" if key.is_valid(now) else "expired"
        table.add_row(key.id, key.team, key.role, moment(key.created), moment(key.expires), state)
    return table


def audit_table(entries: Sequence[AuditEntry]) -> Table:
    """A row for each entry of the audit log."""
    table = make_table("time", "who", "did", wrapped=("what",))
    for entry in entries:
        table.add_row(moment(entry.time), entry.who, entry.action, entry.subject)
    return table
