"""The disk of the pool's ``dir`` is full for a while: the pool waits, says so, and goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from small_runs import events
from small_tasks import a_task, register_base
from waiting import wait_for

from cluster.connection.connect import ray_cluster
from cluster.pool import Pool, PoolSettings

LONG = {"steps": 100_000, "global_batch": 8, "learning_rate": 1e-4}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write a file until nothing more fits on its disk."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(file, bytes(4096))
    except OSError:
        os.close(file)


@pytest.mark.slow
def test_a_pool_goes_on_when_its_full_disk_has_room_again(tmp_path: Path, disk: Path) -> None:
    uri = register_base(tmp_path)
    settings = PoolSettings(dir=disk / "pool", tracking_uri=uri, max_failures=100)
    with ray_cluster(None, finetune_slots=1), Pool.start(settings) as pool:
        long = pool.submit(a_task(tmp_path, "a", "long", train=LONG))
        log = Path(pool.job(long).folder)
        wait_for(lambda: events(log, "step"))

        fill(disk / "others")
        with pytest.raises(OSError, match=f"{disk}/pool/journal.db: database or disk is full"):
            pool.submit(a_task(tmp_path, "b", "refused"))
        wait_for(lambda: pool.status()["trouble"])  # the job cannot write its events, and ends
        [actor] = [p for p in psutil.Process().children(recursive=True) if p.name() == "ray::PoolActor"]
        actor.kill()
        trouble = wait_for(lambda: pool.status()["trouble"])
        assert f"{disk}/pool" in trouble
        assert pool.status()["state"] == "waiting", "it could not write what became of its jobs"
        with pytest.raises(OSError, match="the pool waits for its disk: "):
            pool.jobs()

        (disk / "others").unlink()
        wait_for(lambda: pool.status()["state"] == "running")
        wait_for(lambda: len(events(log, "started") + events(log, "resumed")) >= 2)
        assert pool.status()["trouble"] is None
        short = pool.submit(a_task(tmp_path, "b", "short"))
        pool.cancel(long)
        assert [job.state for job in pool.wait(long, short)] == ["cancelled", "succeeded"]
