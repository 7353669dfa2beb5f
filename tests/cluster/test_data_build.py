"""A build on a real Ray cluster gives the same bytes with any number of workers, and when one dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.connection import run_tasks
from cluster.connection.connect import ray_cluster
from cluster.connection.run_tasks import run_on_ray
from cluster.runs.failures import RunFailedError
from data.building import scan, steps
from data.shards import build


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A private cluster with room for three workers."""
    with ray_cluster(None, pretrain_workers=3):
        yield


def test_the_same_bytes_whatever_the_number_of_workers(
    ray: None, text_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "TASK_BYTES", 60_000)
    monkeypatch.setattr(steps, "LEAST_GROUP", 60_000)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a"}\n{"body": "b"}\n')
    settings = {"vocabulary_size": 400, "sequence_length": 32, "held_out": 0.2, "shard_sequences": 500}
    build(text_files, tmp_path / "1", **settings)
    expected = {file.name: file.read_bytes() for file in (tmp_path / "1").iterdir()}
    for workers in (2, 3):
        out = tmp_path / str(workers)
        build(text_files, out, run=run_on_ray(workers), **settings)
        assert {file.name: file.read_bytes() for file in out.iterdir()} == expected
    # A user's mistake is the same line as in one process, and leaves nothing either.
    with pytest.raises(ValueError, match=r"broken\.jsonl line 2 has no field 'text', only body") as error:
        build([*text_files, broken], tmp_path / "out", run=run_on_ray(2), **settings)
    assert "\n" not in str(error.value)
    assert {file.name for file in tmp_path.iterdir()} == {"1", "2", "3", "broken.jsonl"}


def test_tasks_whose_worker_dies_and_tasks_that_fail(
    ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_once(number: int) -> int:
        mark = tmp_path / "died"
        if number == 2 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    def fail(number: int) -> None:
        raise KeyError(f"item {number}")

    def die(number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert sorted(run_on_ray(2)(die_once, range(5))) == list(range(5))
    assert (tmp_path / "died").exists()
    with pytest.raises(RunFailedError, match="a task of the build failed: KeyError: 'item 1'") as error:
        list(run_on_ray(2)(fail, [1]))
    assert "\n" not in str(error.value)
    monkeypatch.setattr(run_tasks, "RETRIES", 0)
    with pytest.raises(RunFailedError, match=r"a task of the build failed: .*process died"):
        list(run_on_ray(2)(die, [1]))
