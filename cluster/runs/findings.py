"""Why a run is slow, or why it stopped: what its log shows, and what to do about it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cluster.runs.events import Event, LoggedEvent
from cluster.runs.goodput import Part
from cluster.runs.record import Record

SILENT_SECONDS = 600.0
"""Seconds without an event after which a running run is said to be silent."""


@dataclass(frozen=True)
class Finding:
    """Something that held a run up."""

    what: str
    todo: str
    """What to do about it; empty when nothing has to be done."""


_LOST: dict[Part, tuple[float, str, str]] = {
    "wait": (0.01, "waiting for room on the cluster", "cluster.min_workers lets it begin with fewer workers"),
    "data": (
        0.05,
        "waiting for batches",
        "put the shards nearer to the workers, or raise data.cache_bytes so that all of them stay cached",
    ),
    "checkpoint": (0.05, "waiting for checkpoints", "raise checkpoint.every, or write to a faster disk"),
    "repeat": (0.02, "repeating steps after restarts", "lower checkpoint.every"),
    "restart": (
        0.1,
        "starting and restarting",
        "see the causes of the restarts below; short runs spend much of their time on their first start",
    ),
    "validation": (0.1, "validating", "raise train.validate_every, or lower train.validation_sequences"),
}
"""The fraction of the time from which a part is mentioned, what it is, and what to do."""

_ADVICE: dict[str, str] = {
    Event.SLOW: "look at what else runs on its machine, or drain the node: the group goes on elsewhere",
    Event.CORRUPTED: "take the node out of the cluster; the same command resumes from the last checkpoint",
    Event.SPIKE: "nothing if the loss came back; guard.on_spike: skip leaves such steps out",
    Event.SKIPPED: "lower optim.learning_rate, or look at the samples that events.jsonl lists",
    Event.ROLLBACK: "lower optim.learning_rate if it happens again",
    Event.CHECKPOINT_FAILED: "free some space, or lower checkpoint.keep",
    Event.CHECKPOINT_DAMAGED: "nothing: the one before was used; check the disk if it happens again",
    Event.MIRROR_AWAY: "check the address and the credentials of checkpoint.mirror",
    Event.UNWRITABLE: "free some space on the disk of run.dir",
    Event.TRACKING_BEHIND: "odeformer track sync RUN",
    Event.NOT_REGISTERED: "odeformer models register RUN",
    Event.NOT_PROMOTED: "check the registry, then odeformer models promote",
}
_RESTART_ADVICE = {
    "stuck": "stacks.txt in its folder shows where each worker waited; a longer step or checkpoint needs a "
    "higher cluster.stuck_after",
    "preemption": "nothing: the work was committed",
    "failure": "failure.txt in its folder has the last traceback",
}


def findings(record: Record) -> list[Finding]:
    """What held the run up, the most important first; empty if nothing did."""
    return [*_now(record), *_time_lost(record), *_restarts(record), *_said(record)]


def _now(record: Record) -> Iterator[Finding]:
    state, folder = record.state, record.folder
    if state == "killed":
        yield Finding("its command was killed: no process holds its folder", "repeat the command: it resumes")
    elif state == "failed":
        yield Finding("it failed", f"see {folder}/failure.txt; once the cause is fixed, repeat the command")
    elif state == "preempted":
        yield Finding("it was preempted, and its work committed", "repeat the command: it resumes")
    elif state == "interrupted":
        yield Finding("somebody ended it", "repeat the command: it resumes from its last checkpoint")
    elif state == "waiting":
        reason = record.notable[-1]["reason"]
        yield Finding(f"it waits for room now: {reason}", _LOST["wait"][2])
    elif state == "running" and record.silent_seconds > SILENT_SECONDS:
        yield Finding(
            f"nothing was logged for {record.silent_seconds:,.0f} s",
            "cluster.stuck_after says when a stuck worker is killed; its stack is then in stacks.txt",
        )
    elif state == "elsewhere":
        yield Finding("its command is on another machine, or was killed there", "look there")


def _time_lost(record: Record) -> Iterator[Finding]:
    account = record.account
    lost = [(seconds, part) for part, seconds in account.seconds.items() if part in _LOST]
    for seconds, part in sorted(lost, reverse=True):
        least, what, todo = _LOST[part]
        if seconds > least * account.wall:
            reason = ""
            if part == "wait" and (waits := record.of_kind(Event.WAITING)):
                reason = f", the last time: {waits[-1]['reason']}"
            share = seconds / account.wall
            yield Finding(f"{share:.1%} of the time ({seconds:,.0f} s) went to {what}{reason}", todo)


def _restarts(record: Record) -> Iterator[Finding]:
    restarts = record.of_kind(Event.RESTARTING)

    def todo(event: LoggedEvent) -> str:
        restart = event["restart"]  # older logs have no cause
        return _RESTART_ADVICE[restart.get("cause", "preemption" if restart["preemption"] else "failure")]

    yield from _grouped("restarted", restarts, todo)
    launches = len(record.of_kind(Event.LAUNCHED))
    if launches > 1:
        yield Finding(f"its command was started {launches} times", "")


def _said(record: Record) -> Iterator[Finding]:
    for kind, todo in _ADVICE.items():
        yield from _grouped(kind.replace("_", " "), record.of_kind(Event(kind)), lambda _, todo=todo: todo)  # type: ignore[misc]
    away, back = record.of_kind(Event.TRACKING_AWAY), record.of_kind(Event.TRACKING_BACK)
    if len(away) > len(back):
        yield Finding(
            f"MLflow could not be reached: {away[-1].get('reason', '')}",
            "nothing while it runs: metrics are kept; afterwards, odeformer track sync RUN",
        )


def _grouped(what: str, events: list[LoggedEvent], todo: Callable[[LoggedEvent], str]) -> Iterator[Finding]:
    """A finding for each kind of reason, numbers in it aside, with how often and when it was last."""
    kinds = [re.sub(r"\d+", "…", str(event.get("reason", ""))) for event in events]
    last = dict(zip(kinds, events, strict=True))
    for kind, count in Counter(kinds).most_common():
        event = last[kind]
        times = "once" if count == 1 else f"{count} times, last"
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
        reason = f": {event['reason']}" if "reason" in event else ""
        yield Finding(f"{what} {times} at step {event['step']} ({at}){reason}", todo(event))
