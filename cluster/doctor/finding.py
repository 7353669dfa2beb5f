"""What one look at a machine came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: Literal["ok", "note", "failed"]
    """``note``: works, and somebody may want to know."""
    found: str
    remedy: str = ""
    """What to do about it: a command where there is one."""

    def __post_init__(self) -> None:
        assert self.remedy or self.state != "failed", "who is told of a failure is told what to do"
