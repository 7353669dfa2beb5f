"""This machine: Python, compilers, disks, shared memory, the clock."""

from __future__ import annotations

import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path

from cluster.connection.sessions import ROOT
from cluster.doctor.finding import Finding

NEEDED = (3, 11)
GIB = 2**30
FULL = 0.95
"""Ray puts nothing more on a disk that is as full as this."""
OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory that a private cluster asks for."""
SKEW_SECONDS = 30.0
ANSWER_SECONDS = 3.0


def python() -> list[Finding]:
    """The interpreter."""
    found = f"{sys.version.split()[0]}, {sys.executable}"
    if sys.version_info < NEEDED:
        wanted = ".".join(map(str, NEEDED))
        return [
            Finding("Python", "failed", found, f"make a virtual environment with Python {wanted} or newer")
        ]
    return [Finding("Python", "ok", found)]


def compilers() -> list[Finding]:
    """What operators of DeepSpeed would be compiled with, if one were."""
    where = {name: shutil.which(name) for name in ("g++", "nvcc", "ninja")}
    found = ", ".join(f"{name} {path or 'not there'}" for name, path in where.items())
    return [
        Finding("compilers", "ok" if all(where.values()) else "note", f"{found}; no run compiles anything")
    ]


def disk(folders: tuple[Path, ...] = (Path(), ROOT)) -> list[Finding]:
    """Where runs write, and where Ray puts its sessions."""
    findings, seen = [], set()
    for folder in folders:
        device = folder.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        usage = shutil.disk_usage(folder)
        found = f"{folder.absolute()}: {usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f}"
        if not os.access(folder, os.W_OK):
            remedy = "change into a folder that you may write to"
            findings.append(Finding("disk", "failed", f"{folder.absolute()} may not be written", remedy))
        elif usage.free < GIB or usage.free < (1 - FULL) * usage.total:
            remedy = "make room: runs/, ~/.cache and /tmp are what fills up"
            findings.append(Finding("disk", "failed", f"{found}, more than {FULL:.0%} in use", remedy))
        else:
            findings.append(Finding("disk", "ok", found))
    return findings


def shared_memory(folder: Path = Path("/dev/shm")) -> list[Finding]:
    """Where Ray holds its objects."""
    remedy = "docker run --shm-size=1g; in a pod an emptyDir of medium Memory at /dev/shm"
    if not folder.is_dir():
        return [Finding("shared memory", "failed", f"{folder} is not there", remedy)]
    free = shutil.disk_usage(folder).free
    found = f"{folder}: {free / GIB:.1f} GiB free"
    if free < OBJECT_STORE:
        return [Finding("shared memory", "failed", f"{found}, {OBJECT_STORE / GIB:.2f} are needed", remedy)]
    return [Finding("shared memory", "ok", found)]


def clock(*servers: str | None) -> list[Finding]:
    """Against the clocks of those servers that speak HTTP, and against this package's own files."""
    remedy = "set the clock: timedatectl set-ntp true; in a container that of its host"
    installed = Path(__file__).stat().st_mtime
    if time.time() < installed:
        return [Finding("clock", "failed", f"{_now()}, before this package was installed", remedy)]
    for server in servers:
        seconds = _seconds_ahead(server) if server and server.startswith(("http://", "https://")) else None
        if seconds is not None:
            found = f"{_now()}, {abs(seconds):.0f} s {'before' if seconds > 0 else 'behind'} that of {server}"
            return [
                Finding("clock", "failed", found, remedy)
                if abs(seconds) > SKEW_SECONDS
                else Finding("clock", "ok", found)
            ]
    return [Finding("clock", "ok", f"{_now()}; no server to compare it with")]


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def _seconds_ahead(server: str) -> float | None:
    """How far this clock is before the server's, to a second; None when it does not say."""
    try:
        with urllib.request.urlopen(server, timeout=ANSWER_SECONDS) as answer:
            date = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
    except (OSError, ValueError):
        return None
    return time.time() - parsedate_to_datetime(date).timestamp() if date else None
