"""Workers whose failures a restart may help, and others, under Ray and without training."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from faulty_runs import restarts
from small_runs import small_settings

from cluster.connection.connect import ray_cluster
from cluster.runs.failures import RunFailedError
from cluster.supervision.supervisor import Budget, supervise


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_cluster(None, pretrain_workers=2):
        yield


def test_failures_without_progress_are_counted_and_wait_longer_and_longer() -> None:
    budget = Budget(max_failures=3, max_preemptions=1)
    assert [budget.failure() for _ in range(3)] == [(1.0, 2), (2.0, 1), (4.0, 0)]
    budget.committed = 5
    assert [budget.failure() for _ in range(2)] == [(1.0, 2), (2.0, 1)]
    assert budget.preemption() == (0.0, 0)
    assert budget.preemption()[0] is None, "preemptions have a budget of their own"
    assert [budget.failure()[0] for _ in range(2)] == [4.0, None]


def test_no_failures_are_allowed() -> None:
    assert Budget(max_failures=0, max_preemptions=0).failure()[0] is None


@pytest.mark.slow
def test_the_same_rank_that_dies_every_time_ends_the_run(ray: None, tmp_path: Path, shards: Path) -> None:
    settings = small_settings(shards, tmp_path, cluster={"max_failures": 1})
    run = settings.run.dir
    run.mkdir()

    def die(config: dict[str, Any]) -> None:
        import ray.train

        rank = ray.train.get_context().get_world_rank()
        (run / f"attempt-{rank}-{os.getpid()}").touch()
        if rank == 1:
            while len(list(run.glob("attempt-0-*"))) < len(list(run.glob("attempt-1-*"))):
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            time.sleep(60)

    seen: list[dict[str, Any]] = []
    with pytest.raises(RunFailedError, match=r"again and again without progress: .*its process died"):
        supervise(die, settings, seen.append)
    [restart] = restarts(run)
    # Without "worker 1" when it died before Ray had heard that it has begun.
    assert restart["reason"].endswith("its process died (killed, or out of memory)")
    assert restart in seen
    for rank in (0, 1):
        pids = [int(path.name.rsplit("-", 1)[1]) for path in run.glob(f"attempt-{rank}-*")]
        assert len(pids) == 2
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "a worker is left"


@pytest.mark.slow
def test_what_a_new_start_cannot_mend_is_not_tried_again(ray: None, tmp_path: Path, shards: Path) -> None:
    settings = small_settings(shards, tmp_path)
    settings.run.dir.mkdir()

    def fail(config: dict[str, Any]) -> None:
        raise RuntimeError("the loss is nan at step 3")

    with pytest.raises(RunFailedError, match=r"failed: worker [01]: RuntimeError: the loss is nan at step 3"):
        supervise(fail, settings, print)
    assert restarts(settings.run.dir) == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "controller"])
def test_a_group_that_dies_while_it_starts_leaves_its_room_to_the_next(
    ray: None, tmp_path: Path, shards: Path, victim: str
) -> None:
    from ray.util.placement_group import placement_group_table

    settings = small_settings(shards, tmp_path)
    settings.run.dir.mkdir()
    first = tmp_path / "first"
    first.touch()

    def arrive() -> Any:
        """Called in each worker when it receives the function that it is to execute."""
        with suppress(FileNotFoundError):
            first.unlink()  # one of the workers can
            pids = {"worker": os.getpid()}
            for process in psutil.Process(os.getppid()).children():
                if "TrainController" in " ".join(process.cmdline()):
                    pids["controller"] = process.pid
            os.kill(pids[victim], signal.SIGKILL)
        return lambda config: None

    class Work:
        def __call__(self, config: dict[str, Any]) -> None: ...

        def __reduce__(self) -> tuple[Any, tuple[()]]:
            return arrive, ()

    def seen(event: dict[str, Any]) -> None:
        held = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
        assert event["event"] != "waiting" or not held, "a dead group holds its room"

    supervise(Work(), settings, seen)
    assert len(restarts(settings.run.dir)) == 1
