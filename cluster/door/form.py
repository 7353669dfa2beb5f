"""What the door and its client have agreed on beyond OpenAI's form."""

from __future__ import annotations

EXTENSION = "odeformer"
"""The field of a request and of an answer for what OpenAI's form has no place for."""
NOT_GIVEN = ("name", "team", "base", "metadata", "trial", "parent_run")
"""Fields of a task that are other fields of a request, follow from the key, or are the pool's own."""
TABLES = (".jsonl", ".ndjson", ".csv", ".tsv")
"""Ends of the names of files that the door takes: of texts, which hold no more than their bytes."""
EVENT = "ftevent-"
"""The beginning of an event's id; the offset in the log behind the event follows."""


def public_id(job_id: str) -> str:
    """The id of a job at the door, ``TEAM.NAME.NUMBER``, which fits into a path."""
    return job_id.replace("/", ".")
