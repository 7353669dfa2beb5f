"""The states of a job, and what may follow what."""

from __future__ import annotations

from typing import Literal, get_args

State = Literal["queued", "running", "trained", "succeeded", "failed", "cancelled"]
"""``trained``: its adapter is made, and the registry has not taken it yet."""

STATES: tuple[State, ...] = get_args(State)
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})

_FOLLOW: dict[State, frozenset[State]] = {
    "queued": frozenset({"running", "failed", "cancelled"}),
    # Queued again: its process died, or it was preempted. It goes on from its last checkpoint.
    "running": frozenset({"queued", "trained", "succeeded", "failed", "cancelled"}),
    "trained": frozenset({"succeeded", "failed"}),
    "succeeded": frozenset(),
    "failed": frozenset({"queued"}),
    "cancelled": frozenset({"queued"}),
}


def may_follow(before: State, after: State) -> bool:
    """Whether a job may go from one state to the other."""
    return after in _FOLLOW[before]
