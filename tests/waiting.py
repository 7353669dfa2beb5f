"""Waiting for what should come: a condition, never a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import psutil

DEADLINE = 900.0
"""Seconds after which what has not come is taken to be lost. No test may pass or fail by how long something
takes within them: machines differ, and others use them."""

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found], why: Callable[[], object] = lambda: "", pause: float = 0.05) -> Found:
    """What ``look`` gives, once it gives anything.

    Args:
        look: asked again and again.
        why: what to say when it has given nothing for too long.
        pause: seconds between two looks.
    """
    deadline = time.monotonic() + DEADLINE
    while not (found := look()):
        assert time.monotonic() < deadline, why() or f"{look} gave {found!r}"
        time.sleep(pause)
    return found


def wait_until_gone(processes: Iterable[psutil.Process]) -> None:
    """Wait until none of these processes is left."""
    _, alive = psutil.wait_procs(list(processes), timeout=DEADLINE)
    assert alive == []
