"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """A line of the report."""

    name: str
    state: Literal["ok", "note", "failed"]
    """``note`` means that it works but is worth knowing."""
    found: str
    remedy: str = ""
    """What to do about a failure: a command if possible."""

    def __post_init__(self) -> None:
        assert self.remedy or self.state != "failed", "a failure needs a remedy"
