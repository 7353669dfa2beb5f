"""Result of a run without faults, and a disk that a test may fill."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_runs import SECTIONS
from small_runs import run_workers, small_settings


@pytest.fixture(scope="session")
def untroubled(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """Folder of an uninterrupted run with the settings of :class:`faulty_runs.Command`."""
    settings = small_settings(shards, tmp_path_factory.mktemp("untroubled"), **SECTIONS)
    run_workers(settings)
    return settings.run.dir


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of a file system of 24 MiB; skips, saying so, where none may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
