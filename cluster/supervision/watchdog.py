"""Which worker of a group is stuck, by the signs of life they give; and the end of one that is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOK_SECONDS = 1.0
START_SECONDS = 600.0
"""How long workers have at least until the first of them has passed a point: imports, the weights."""
END_SECONDS = 90.0
"""How long ending processes may take: Ray gives up a node that does not answer sooner, and they are gone with
it."""


@dataclass(frozen=True)
class Process:
    """A worker's process, wherever it is: a number alone could be another one's by now."""

    rank: int
    pid: int
    started: float
    node: str


@dataclass(frozen=True)
class Stuck:
    """A worker that holds up the others."""

    process: Process
    reason: str


class Watchdog:
    """Follows the heartbeats in a folder. Only this process's clock counts: nodes' clocks differ."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._looked = 0.0
        self._beats: dict[int, dict[str, Any]] = {}
        self._beaten: dict[int, float] = {}
        self._advanced: dict[int, float] = {}

    def look(self) -> Stuck | None:
        """Read the heartbeats, about once a second however often it is asked; who is stuck, if one is."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        self._read(now)
        silent = [rank for rank in self._beats if now - self._beaten[rank] > self._seconds]
        if silent:
            rank = min(silent, key=lambda rank: self._beaten[rank])
            return Stuck(
                self._process(rank),
                f"worker {rank} is stuck: no sign of life for {now - self._beaten[rank]:.0f} s",
            )
        has_begun = any(beat["passed"] for beat in self._beats.values())
        patience = self._seconds if has_begun else max(self._seconds, START_SECONDS)
        waiting = now - max(self._advanced.values(), default=now)
        if waiting > patience:
            # Collectives stop all ranks. The one that holds the others has not got as far as they have.
            rank = min(self._beats, key=lambda rank: (self._beats[rank]["passed"], rank))
            return Stuck(
                self._process(rank),
                f"worker {rank} is stuck after step {self._beats[rank]['step']}: "
                f"nobody has made progress for {waiting:.0f} s",
            )
        return None

    def processes(self) -> list[Process]:
        """Those that have not ended by themselves, as far as is known."""
        self._read(time.monotonic())
        return [self._process(rank) for rank in sorted(self._beats)]

    def is_any_asked(self) -> bool:
        """Whether one of them has been asked to end by SIGTERM."""
        return any(beat["asked"] for beat in self._beats.values())

    def nodes(self) -> set[str]:
        """Where they are."""
        return {beat["node"] for beat in self._beats.values()}

    def restart_clock(self) -> None:
        """Give everybody the whole time again: something has been done about it."""
        now = time.monotonic()
        self._beaten = dict.fromkeys(self._beaten, now)
        self._advanced = dict.fromkeys(self._advanced, now)

    def _read(self, now: float) -> None:
        found: dict[int, dict[str, Any]] = {}
        for path in self._folder.glob("*.json"):
            try:
                beat = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            found[beat["rank"]] = beat
        gone = self._beats.keys() - found.keys()
        for rank in gone:
            del self._beaten[rank], self._advanced[rank]
        for rank, beat in found.items():
            before = self._beats.get(rank)
            if before is None or beat["time"] != before["time"]:
                self._beaten[rank] = now
            if before is None or beat["passed"] != before["passed"]:
                self._advanced[rank] = now
        self._beats = found

    def _process(self, rank: int) -> Process:
        beat = self._beats[rank]
        return Process(rank, beat["pid"], beat["started"], beat["node"])


def end(processes: Iterable[Process]) -> None:
    """SIGKILL processes, each from its own node, and wait until they are gone. Those that are gone, are.

    Ray's own way to end an actor asks its process first, and one that is stopped does not hear.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(kill)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(one.node, soft=False)).remote(
            one.pid, one.started
        )
        for one in processes
    ]
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=END_SECONDS)


def kill(pid: int, started: float) -> None:
    """Kill a process of this machine and wait until it is gone, unless it is, or its number is another's now.

    Args:
        pid: its number.
        started: when it began, in seconds since 1970, as psutil tells it.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.create_time() == started:
            process.kill()
            process.wait(END_SECONDS)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        pass
