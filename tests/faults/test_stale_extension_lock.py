"""A stale lock in the folder of torch's extensions does not block a start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from waiting import DEADLINE

START = """
from torch import distributed as dist
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
from cluster.runs.deepspeed_import import import_deepspeed
deepspeed = import_deepspeed()
from deepspeed import comm
assert comm.comm.cdb.shm_comm_op is None
import os
os._exit(0)
"""


def test_nothing_is_compiled_so_no_lock_is_waited_for(tmp_path: Path) -> None:
    # The lock's name is torch's; with the operator's build switched on this start hangs for ever.
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    done = subprocess.run(
        [sys.executable, "-c", START],
        env={"TORCH_EXTENSIONS_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["deepspeed_shm_comm", "lock"], "built nothing"
