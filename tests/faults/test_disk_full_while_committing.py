"""A full disk: commits stay, training continues, and stops if the disk remains full."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from small_runs import events, run_workers, small_settings
from torch import distributed as dist

from cluster import pretrain
from cluster.checkpoints.durable import DurableFiles

FULL_AT = (2, 4, 5, 6)


def pretrain_with_a_full_disk(config: dict[str, Any]) -> None:
    """Worker function; at some steps the second worker cannot write files of more than 8 KiB."""
    write = DurableFiles.write

    def write_with_a_limit(self: DurableFiles, beside: Path) -> dict[str, str]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if int(beside.stem.removeprefix(".step-")) in FULL_AT and dist.get_rank() == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**13, hard))
        try:
            return write(self, beside)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    DurableFiles.write = write_with_a_limit  # type: ignore[method-assign]
    pretrain.pretrain_worker(config)


def test_one_worker_that_cannot_write_is_heard_by_all_and_three_times_is_enough(
    shards: Path, tmp_path: Path
) -> None:
    run = small_settings(
        shards, tmp_path, train={"steps": 9, "validate_every": 9}, checkpoint={"every": 1, "max_failed": 3}
    )
    with pytest.raises(Exception, match="3 checkpoints in a row could not be written, the last at step 6"):
        run_workers(run, work=pretrain_with_a_full_disk)
    failed = events(run.run.dir, "checkpoint_failed")
    assert [event["step"] for event in failed] == list(FULL_AT)
    assert all(event["reason"].startswith("worker 1: [Errno 27] File too large: '/") for event in failed)
    # Step 7 was made while the commit of step 6 failed.
    assert [event["step"] for event in events(run.run.dir, "step")] == [1, 2, 3, 4, 5, 6, 7]
    commits = sorted(path.name for path in (run.run.dir / "checkpoints").iterdir())
    assert commits == ["step-000000001", "step-000000003"], "nothing half written, nothing lost"


def test_a_run_that_cannot_have_its_commits_does_not_start(shards: Path, tmp_path: Path) -> None:
    run = small_settings(shards, tmp_path, checkpoint={"keep": 10**9}, cluster={"workers": 1})
    with pytest.raises(Exception, match=r"checkpoints has [\d.,]+ MiB free: no room for 1000000001 more"):
        run_workers(run)
    assert not events(run.run.dir, "started")
