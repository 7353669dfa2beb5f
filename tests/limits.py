"""Limits of memory and time for readers of bytes that somebody else has made."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil


class TooLongError(Exception):
    """What was tried has not ended in its time. No reader catches it by accident."""


@contextmanager
def limits(mebibytes: int = 1024, seconds: int = 60) -> Iterator[None]:
    """Fail what takes more memory than this beyond what the process has, or longer; both are generous."""

    def stop(*_: Any) -> None:
        raise TooLongError(f"not ended after {seconds} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + mebibytes * 2**20, hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)
