"""What a process does now: the stacks of its threads, or that it is stopped."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cluster.runs.heartbeat import STACK_SIGNAL

FILE_NAME = "stacks.txt"
"""File in the run's folder with the stacks of the last stuck group."""
WRITE_SECONDS, QUIET_SECONDS = 5.0, 0.2
"""Seconds that a process has to write its stacks, and without more of them until they are complete."""
ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "data", "launcher", "odeformer")


class State(NamedTuple):
    """What a process does."""

    is_stopped: bool
    """Whether it is stopped, by SIGSTOP or a debugger."""
    stacks: str
    """The stacks of its threads as :mod:`faulthandler` writes them."""


def state_of(pid: int, started: float, file: str) -> State | None:
    """What a process of this machine does; ``None`` if it is gone or cannot be asked.

    Args:
        started: its start time in seconds since 1970, from psutil.
        file: where it writes its stacks at :data:`~cluster.runs.heartbeat.STACK_SIGNAL`.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.create_time() != started:
            return None
        if process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            return State(True, "")
        path = Path(file)
        before = (
            path.stat().st_size
        )  # without a file nobody listens to the signal, which would end the process
        os.kill(pid, STACK_SIGNAL)
        return State(False, _written(path, before))
    except (psutil.NoSuchProcess, OSError):
        return None


def _written(path: Path, before: int) -> str:
    """What has been appended to a file, once nothing more is."""
    size, until = before, time.monotonic() + WRITE_SECONDS
    while time.monotonic() < until:
        time.sleep(QUIET_SECONDS)
        now = path.stat().st_size
        if now == size > before:
            break
        size = now
    return path.read_bytes()[before:].decode(errors="replace")


def waiting_line(stacks: str, thread: int) -> str | None:
    """The line at which a thread is, and the line of this program that called it; ``None`` if not known.

    Args:
        stacks: the stacks of its process, innermost calls first.
        thread: the identifier of the thread.
    """
    _, _, rest = stacks.partition(f"0x{thread:016x}")
    frames = re.findall(r'^  File "(.*)", line (\d+) in (.*)$', rest.split("\n\n")[0], re.MULTILINE)
    if not frames:
        return None
    ours = next((frame for frame in frames if _place(frame[0]).split("/")[0] in PACKAGES), frames[0])
    innermost = _in_words(frames[0])
    return innermost if ours == frames[0] else f"{innermost}, called by {_in_words(ours)}"


def report(states: Mapping[int, State], threads: Mapping[int, int]) -> str:
    """The states of all ranks for a file: first the line at which each waits, then all stacks.

    Args:
        states: by rank.
        threads: by rank, the identifier of the thread that does the work.
    """
    lines = []
    for rank, state in sorted(states.items()):
        line = waiting_line(state.stacks, threads.get(rank, 0))
        how = "is stopped" if state.is_stopped else f"waits in {line}" if line else "shows no stack"
        lines.append(f"worker {rank} {how}")
    stacks = [f"worker {rank}:\n{state.stacks}" for rank, state in sorted(states.items()) if state.stacks]
    return "\n".join(lines) + "\n\n" + "\n\n".join(stacks)


def _in_words(frame: tuple[str, str, str]) -> str:
    file, line, function = frame
    return f"{_place(file)}:{line} ({function})"


def _place(file: str) -> str:
    """A file relative to this program's folder, or its last two parts."""
    path = Path(file)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else "/".join(path.parts[-2:])
