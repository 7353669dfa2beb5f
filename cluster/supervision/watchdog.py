"""Watchdog: finds the stuck worker of a group by the heartbeats, and kills worker processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from cluster.runs.heartbeat import STACKS, Beat
from cluster.supervision.stacks import State, state_of, waiting_line
from odeformer.files.atomic import named

T = TypeVar("T")
_BEAT = TypeAdapter(Beat)
LOOK_SECONDS = 1.0
START_SECONDS = 600.0
"""Seconds that workers have at least until the first progress: for imports and loading weights."""
LATE_SECONDS = 5.0
"""Age of a heartbeat in seconds after which the watchdog checks whether heartbeats can be written at all."""
END_SECONDS = 90.0
"""Seconds that killing processes may take. Ray gives up an unresponsive node sooner than that, and its
processes with it."""
STATE_SECONDS = 30.0
"""Seconds to wait for the stacks of the workers; a stuck one is killed after that."""


@dataclass(frozen=True)
class Process:
    """Process of a worker on some node. The start time guards against a reused process id."""

    rank: int
    pid: int
    started: float
    node: str
    thread: int = 0
    """Identifier of the thread that does the work."""


@dataclass(frozen=True)
class Stuck:
    """A worker that blocks the others."""

    process: Process
    how: str
    """``stuck`` or ``stopped``, and how this was detected."""

    @property
    def reason(self) -> str:
        return f"worker {self.process.rank} is {self.how}"

    def seen(self, state: State | None) -> Stuck:
        """The same with what the process itself shows: that it is stopped, or where it waits."""
        if state is None:
            return self
        if state.is_stopped:
            return replace(self, how=self.how.replace("stuck", "stopped (SIGSTOP, or a debugger)", 1))
        line = waiting_line(state.stacks, self.process.thread)
        return replace(self, how=f"{self.how}; it waits in {line}") if line else self


class Watchdog:
    """Follows the heartbeats in a folder, by this process's clock alone, as the nodes' clocks differ."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self.problem: OSError | None = None
        """Why nothing can be written to the folder now, in which case silence says nothing."""
        self._looked = 0.0
        self._beats: dict[int, Beat] = {}
        self._beaten: dict[int, float] = {}
        self._advanced: dict[int, float] = {}

    def look(self) -> Stuck | None:
        """Read the heartbeats, at most once a second, and return the stuck worker, if there is one."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        self._read(now)
        if self.problem is not None or any(now - beaten > LATE_SECONDS for beaten in self._beaten.values()):
            self.problem = self._try_to_write()
            if self.problem is not None:
                self.restart_clock()
        silent = [rank for rank in self._beats if now - self._beaten[rank] > self._seconds]
        if silent:
            rank = min(silent, key=lambda rank: self._beaten[rank])
            return Stuck(
                self._process(rank),
                f"stuck: no heartbeat for {now - self._beaten[rank]:.0f} s",
            )
        has_begun = any(beat["passed"] for beat in self._beats.values())
        patience = self._seconds if has_begun else max(self._seconds, START_SECONDS)
        waiting = now - max(self._advanced.values(), default=now)
        if waiting > patience:
            # Collectives block all ranks. The one that blocks the others has made the least progress.
            rank = min(self._beats, key=lambda rank: (self._beats[rank]["passed"], rank))
            return Stuck(
                self._process(rank),
                f"stuck after step {self._beats[rank]['step']}: nobody has made progress for {waiting:.0f} s",
            )
        return None

    def processes(self) -> list[Process]:
        """Processes that have not ended by themselves."""
        self._read(time.monotonic())
        return [self._process(rank) for rank in sorted(self._beats)]

    def is_any_asked(self) -> bool:
        """Whether one of the workers was preempted (SIGTERM)."""
        return any(beat["asked"] for beat in self._beats.values())

    def beats(self) -> list[Beat]:
        """The heartbeats as last read."""
        return list(self._beats.values())

    def nodes(self) -> set[str]:
        """Ids of the workers' nodes."""
        return {beat["node"] for beat in self._beats.values()}

    def restart_clock(self) -> None:
        """Start all time limits again."""
        now = time.monotonic()
        self._beaten = dict.fromkeys(self._beaten, now)
        self._advanced = dict.fromkeys(self._advanced, now)

    def _read(self, now: float) -> None:
        beats: dict[int, Beat] = {}
        for path in self._folder.glob("*.json"):
            try:
                beat = _BEAT.validate_json(path.read_bytes()) if path.is_file() else None
            except (OSError, ValueError):  # half written, or by somebody else
                continue
            if beat is not None:
                beats[beat["rank"]] = beat

        for rank in self._beats.keys() - beats.keys():
            del self._beaten[rank], self._advanced[rank]
        for rank, beat in beats.items():
            before = self._beats.get(rank)
            if before is None or beat["time"] != before["time"]:
                self._beaten[rank] = now
            if before is None or beat["passed"] != before["passed"] or beat["transferring"]:
                self._advanced[rank] = now
        self._beats = beats

    def _try_to_write(self) -> OSError | None:
        file = self._folder / ".probe"
        try:
            with named(file):
                file.write_bytes(bytes(512))
        except OSError as error:
            return error
        finally:
            with suppress(OSError):
                file.unlink()
        return None

    def _process(self, rank: int) -> Process:
        beat = self._beats[rank]
        return Process(rank, beat["pid"], beat["started"], beat["node"], beat["thread"])


def end(processes: Iterable[Process]) -> None:
    """Kill processes with SIGKILL, each from its own node, and wait until they are gone.

    Ray's own way to end an actor needs the cooperation of its process, which a stopped one cannot give.
    """
    _on_their_nodes(kill, [(process, ()) for process in processes], END_SECONDS)


def states(processes: Iterable[Process], heartbeats: Path) -> dict[int, State]:
    """What each process does now, by rank; those that cannot be asked are left out.

    Args:
        heartbeats: folder of the processes' heartbeats.
    """
    asked = [(process, (str(heartbeats / f"{process.rank}{STACKS}"),)) for process in processes]
    found = _on_their_nodes(state_of, asked, STATE_SECONDS)
    return {rank: state for rank, state in found.items() if state is not None}


def _on_their_nodes(
    function: Callable[..., T], processes: Sequence[tuple[Process, tuple[Any, ...]]], seconds: float
) -> dict[int, T]:
    """Call ``function(pid, started, *more)`` for each process, on its node; the results by rank.

    Those that do not come within ``seconds``, or fail with their node, are left out.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    calls = {}
    for process, more in processes:
        on_its_node = NodeAffinitySchedulingStrategy(process.node, soft=False)
        placed = task.options(scheduling_strategy=on_its_node)
        calls[placed.remote(process.pid, process.started, *more)] = process.rank
    if not calls:
        return {}
    ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=seconds)
    results = {}
    for call in ready:
        with suppress(ray.exceptions.RayError):
            results[calls[call]] = ray.get(call)
    return results


def kill(pid: int, started: float) -> None:
    """Kill a process of this machine and wait until it is gone.

    Nothing happens if it has ended, even if its process id is in use again.

    Args:
        started: its start time in seconds since 1970, from psutil.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.create_time() == started:
            process.kill()
            process.wait(END_SECONDS)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        pass
