"""Checks of this machine: Python, compilers, disks, shared memory and clock."""

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
from odeformer.files.shown import masked, without_user

NEEDED = (3, 11)
GIB = 2**30
FULL = 0.95
"""Fraction of a disk in use at which Ray stops writing to it."""
OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory that a private cluster needs."""
SKEW_SECONDS = 30.0
ANSWER_SECONDS = 3.0


def python() -> list[Finding]:
    """Check the Python version."""
    found = f"{sys.version.split()[0]}, {sys.executable}"
    if sys.version_info < NEEDED:
        wanted = ".".join(map(str, NEEDED))
        remedy = f"make a virtual environment with Python {wanted} or newer"
        return [Finding("Python", "failed", found, remedy)]
    return [Finding("Python", "ok", found)]


def compilers() -> list[Finding]:
    """List the tools that compiling DeepSpeed's operators would need."""
    where = {name: shutil.which(name) for name in ("g++", "nvcc", "ninja")}
    found = ", ".join(f"{name} {path or 'not found'}" for name, path in where.items())
    return [
        Finding("compilers", "ok" if all(where.values()) else "note", f"{found}; no run compiles anything")
    ]


def disk(folders: tuple[Path, ...] = (Path(), ROOT)) -> list[Finding]:
    """Check the disks that runs and Ray's sessions are written to."""
    findings, seen = [], set()
    for folder in folders:
        device = folder.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        usage = shutil.disk_usage(folder)
        found = f"{folder.absolute()}: {usage.free / GIB:.1f} GiB free of {usage.total / GIB:.1f}"
        if not os.access(folder, os.W_OK):
            remedy = "change to a folder that you may write to"
            findings.append(Finding("disk", "failed", f"{folder.absolute()} is not writable", remedy))
        elif usage.free < GIB or usage.free < (1 - FULL) * usage.total:
            remedy = "free some space, usually in runs/, ~/.cache or /tmp"
            findings.append(Finding("disk", "failed", f"{found}, more than {FULL:.0%} in use", remedy))
        else:
            findings.append(Finding("disk", "ok", found))
    return findings


def shared_memory(folder: Path = Path("/dev/shm")) -> list[Finding]:
    """Check the shared memory, where Ray stores objects."""
    remedy = "docker run --shm-size=1g; in a pod an emptyDir of medium Memory at /dev/shm"
    if not folder.is_dir():
        return [Finding("shared memory", "failed", f"{folder} does not exist", remedy)]
    free = shutil.disk_usage(folder).free
    found = f"{folder}: {free / GIB:.1f} GiB free"
    if free < OBJECT_STORE:
        return [Finding("shared memory", "failed", f"{found}, {OBJECT_STORE / GIB:.2f} are needed", remedy)]
    return [Finding("shared memory", "ok", found)]


def clock(*servers: str | None) -> list[Finding]:
    """Compare the clock with those of HTTP servers and with the time of this package's installation."""
    remedy = "set the clock (of the host, in a container): timedatectl set-ntp true"
    installed = Path(__file__).stat().st_mtime
    if time.time() < installed:
        return [Finding("clock", "failed", f"{_now()}, before this package was installed", remedy)]
    for server in filter(None, servers):
        seconds = _seconds_ahead(server) if server.startswith(("http://", "https://")) else None
        if seconds is not None:
            found = (
                f"{_now()}, {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} {masked(server)}"
            )
            if abs(seconds) > SKEW_SECONDS:
                return [Finding("clock", "failed", found, remedy)]
            return [Finding("clock", "ok", found)]
    return [Finding("clock", "ok", f"{_now()}; no server to compare with")]


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def _seconds_ahead(server: str) -> float | None:
    """Seconds that this clock is ahead of the server's, or None if the server sends no date."""
    try:
        with urllib.request.urlopen(without_user(server)[0], timeout=ANSWER_SECONDS) as answer:
            date = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
    except (OSError, ValueError):
        return None
    return time.time() - parsedate_to_datetime(date).timestamp() if date else None
