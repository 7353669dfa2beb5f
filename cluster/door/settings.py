"""Limits of the pool's door."""

from __future__ import annotations

from pydantic import Field

from odeformer.section import Section


class DoorSettings(Section):
    """The most that clients may ask of the door."""

    most_file_bytes: int = Field(default=100 * 2**20, ge=1)
    """Largest size of a file in bytes."""
    most_line_bytes: int = Field(default=2 * 2**20, ge=1)
    """Largest size of a line of a file in bytes."""
    most_lines: int = Field(default=10**6, ge=1)
    """Largest number of lines of a file, whose rows are all in memory when a job begins."""
    most_fields: int = Field(default=256, ge=1)
    """Largest number of fields in a line of a file."""
    most_files: int = Field(default=1000, ge=1)
    """Largest number of files that a team keeps."""
    most_team_bytes: int = Field(default=2 * 2**30, ge=1)
    """Largest size of a team's files together, in bytes."""
    most_body_bytes: int = Field(default=2**20, ge=1)
    """Largest size of any other request's body in bytes."""
    most_open_bytes: int = Field(default=2**28, ge=1)
    """Largest size of one key's uploads at a time, in bytes: Ray Serve's proxy keeps in memory what comes
    faster than it is read."""
    most_open: int = Field(default=64, ge=1)
    """Largest number of requests of one key at a time."""
