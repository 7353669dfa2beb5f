"""Goodput of a run in words, beside what the simulation gives for the same accidents."""

from __future__ import annotations

from cluster.runs.goodput import Account
from cluster.settings import CheckpointSettings
from launcher.terminal.durations import duration

LEAST_SHOWN = 0.0005


def goodput_lines(account: Account, checkpoint: CheckpointSettings) -> list[str]:
    """The goodput and the parts of the time, the largest first; nothing before the first step."""
    from cluster.planning.hindsight import goodput_in_hindsight

    simulated = goodput_in_hindsight(account, checkpoint)
    if simulated is None:
        return []
    parts = sorted(((seconds, part) for part, seconds in account.seconds.items()), reverse=True)
    shares = [(seconds / account.wall, part) for seconds, part in parts]
    shown = ", ".join(f"{part} {share:.1%}" for share, part in shares if share >= LEAST_SHOWN)
    starts = len(account.accidents)
    return [
        f"goodput {account.goodput:.1%} of {duration(account.wall)}: {shown}",
        f"simulated with the same {starts} start{'' if starts == 1 else 's'}: {simulated:.1%}",
    ]
