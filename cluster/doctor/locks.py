"""Check for stale locks and for leftovers of dead commands."""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

import psutil

from cluster.connection.sessions import LOCK, PREFIX, ROOT
from cluster.doctor.finding import Finding
from cluster.runs.lock import FILE_NAME
from cluster.runs.lock import holders as lock_holders
from odeformer.files.user import home

BEGINNING_SECONDS = 60.0
"""Seconds for which a new session folder may have no lock yet."""


def of_extensions() -> list[Finding]:
    """Check for stale locks of DeepSpeed's operator builds, on which all later builds hang.

    Torch's lock is a file that its holder keeps open. One that no process here has open is stale, unless the
    folder is shared and another machine is building.
    """
    name, opened = "extension locks", set(_open_files("lock"))
    findings = []
    for lock in sorted(chain.from_iterable(root.rglob("lock") for root in _extension_folders())):
        minutes = (time.time() - lock.stat().st_mtime) / 60
        if str(lock.resolve()) in opened:
            findings.append(
                Finding(name, "note", f"{lock.parent} has been building for {minutes:.0f} minutes")
            )
        else:
            found = f"{lock} was left by a build that was killed {minutes:.0f} minutes ago; later builds hang"
            findings.append(Finding(name, "failed", found, f"rm {shlex.quote(str(lock))}"))
    return findings or [Finding(name, "ok", "none")]


def of_runs(folder: Path = Path("runs")) -> list[Finding]:
    """List the locks of runs and pools under ``runs/``, which the kernel releases when processes die."""
    name, holders = "run locks", lock_holders()
    findings = []
    for lock in sorted([*folder.glob(f"*/{FILE_NAME}"), *folder.glob(f"*/*/{FILE_NAME}")]):
        pid = holders.get(lock.stat().st_ino)
        if pid is None:
            continue
        holder = lock.read_text(encoding="utf-8").strip()
        here = holder.endswith(f" on {socket.gethostname()}")
        if here and not Path(f"/proc/{_number(holder)}").is_dir():
            found = f"{lock.parent} is held by process {pid}, a child of {holder}, which has ended"
            findings.append(Finding(name, "failed", found, f"kill {pid}"))
        else:
            findings.append(Finding(name, "note", f"{lock.parent} is in use by {holder or f'process {pid}'}"))
    return findings or [Finding(name, "ok", f"none held under {folder}/")]


def of_sessions(root: Path = ROOT) -> list[Finding]:
    """Check for session folders of private Ray clusters that killed commands left."""
    name, holders = "session folders", lock_holders()
    findings, used = [], 0
    for folder in sorted(root.glob(f"{PREFIX}*")):
        with suppress(OSError):  # gone meanwhile, or another user's
            about = folder.stat()
            if about.st_uid != os.getuid() or time.time() - about.st_mtime < BEGINNING_SECONDS:
                continue
            lock = folder / LOCK
            if not lock.is_file():
                found = f"{folder} has no lock: its command has ended without removing it"
                findings.append(Finding(name, "note", found, f"rm -r {folder}"))
            elif lock.stat().st_ino in holders:
                used += 1
            else:
                findings.append(
                    Finding(name, "note", f"{folder} belongs to a dead command; the next command removes it")
                )
    return [*findings, Finding(name, "ok", f"{used} in use")]


def _extension_folders() -> list[Path]:
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    folder = Path(named) if named else home() / ".cache" / "torch_extensions"
    return [folder] if folder.is_dir() else []


def _open_files(name: str) -> Iterator[str]:
    """Paths of all files with this name that processes of this user have open."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # another user's, or ended
            yield from (file.path for file in process.open_files() if Path(file.path).name == name)


def _number(holder: str) -> str:
    return holder.split()[1] if holder.startswith("process ") else "0"
