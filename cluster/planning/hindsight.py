"""What the simulation says of a run that was made, for the accidents that it had."""

from __future__ import annotations

from cluster.planning.simulation import Event, LongRun, replay
from cluster.runs.goodput import Account
from cluster.settings import CheckpointSettings


def goodput_in_hindsight(account: Account, checkpoint: CheckpointSettings) -> float | None:
    """The goodput that the simulation gives a run with the mean times and the accidents of this one.

    What the simulation does not know (waiting for data and for room, validations) takes the share of the time
    that it took. ``None`` before the first step.
    """
    seconds, steps = account.seconds, account.steps
    if not steps or not account.wall:
        return None
    in_steps = sum(seconds[part] for part in ("train", "data", "validation", "other"))
    commits = max(1, account.commits)
    run = LongRun(
        steps=steps,
        step_seconds=in_steps / steps,
        commit_every=checkpoint.every * in_steps / steps,
        commit_seconds=seconds["checkpoint"] / commits,
        write_seconds=account.write_seconds / commits,
        restart_seconds=seconds["restart"] / len(account.accidents),
    )
    kinds: dict[bool, Event] = {False: "failure", True: "preemption"}
    # The first start is, to the simulation, a restart before the first step.
    outcome = replay(run, [(accident.at, kinds[accident.is_preemption]) for accident in account.accidents])
    room = 1 - seconds["wait"] / account.wall
    return outcome.goodput * room * seconds["train"] / in_steps
