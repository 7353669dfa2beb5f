"""A worker whose raylet was killed ends."""

from __future__ import annotations

import subprocess
import sys

import psutil
from waiting import wait_until_gone

CHILD = """
import time
from cluster.supervision import orphans
orphans.end_with_parent()
print(flush=True)
time.sleep(10**6)
"""
PARENT = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
worker.stdout.readline()
print(worker.pid, flush=True)
input()
"""


def test_a_worker_ends_soon_after_its_raylet_and_not_before() -> None:
    raylet = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert raylet.stdout is not None
    worker = psutil.Process(int(raylet.stdout.readline()))
    try:
        assert psutil.wait_procs([worker], timeout=2)[1] == [worker]
        raylet.kill()
        raylet.wait()
        wait_until_gone([worker])
    finally:
        if worker.is_running():
            worker.kill()
