"""Ports for the servers of tests."""

from __future__ import annotations

import random
import socket

# Linux gives those from 32768 to whoever connects to something, Ray those from 10002 to its workers.
_FIRST, _END = 20000, 32768


def free_ports(count: int) -> list[int]:
    """Ports in a row that nobody listens on just now, and that nobody is given without asking for them."""
    while True:
        first = random.SystemRandom().randrange(_FIRST, _END - count)
        ports = list(range(first, first + count))
        if all(map(_is_free, ports)):
            return ports


def free_port() -> int:
    """One such port."""
    return free_ports(1)[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
