"""A head node with token authentication, and the command line configured for it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from forked import Command
from ports import free_ports
from waiting import wait_for, wait_until_gone

HEAD = """
import sys
from ray.scripts.scripts import main
sys.exit(main())
"""


@dataclass
class Head:
    """A head node, and the command line configured for it."""

    address: str
    environment: dict[str, str]
    folder: Path
    of_drivers: str
    """The address at which drivers and nodes join."""

    def start(self, *arguments: str) -> Command:
        """Run ``odeformer`` with these arguments."""
        return Command(*arguments, cwd=self.folder, env=self.environment)

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate()
        return process.wait(), out, err

    def job(self, name: str) -> dict[str, Any]:
        """Output of ``jobs show --json``."""
        code, out, err = self("jobs", "show", name, "--json")
        assert code == 0, err
        return dict(json.loads(out))

    def wait(self, name: str, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the job meets the condition, and return it."""

        def look() -> dict[str, Any] | None:
            return job if found(job := self.job(name)) else None

        return wait_for(look, lambda: self.job(name), pause=0.5)


@contextmanager
def head_node(resources: dict[str, int], dashboard: bool = True) -> Iterator[Head]:
    """A head node with two CPUs and these resources, stopped by the ids of its processes.

    Without a dashboard, which is slow to start, the address is that for drivers.
    """
    folder = Path(tempfile.mkdtemp(prefix="odf-head-", dir="/tmp"))
    gcs, dashboard_port, agent, client = free_ports(4)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # where the job finds odeformer
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", HEAD, "start", "--head", "--block"]
    options = {
        "port": gcs,
        "include-dashboard": str(dashboard).lower(),
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "temp-dir": folder,
        "node-ip-address": "127.0.0.1",
        "num-cpus": 2,
        "resources": json.dumps(resources),
        "object-store-memory": 128 * 2**20,
    }
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "head.log").open("w") as out:
        node = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, cwd=folder, start_new_session=True
        )
    of_drivers = f"127.0.0.1:{gcs}"
    address = f"http://127.0.0.1:{dashboard_port}" if dashboard else of_drivers
    try:
        log = folder / "head.log"

        def is_up() -> bool:
            assert node.poll() is None, log.read_text()
            return _answers(address) if dashboard else "runtime started" in log.read_text()

        wait_for(is_up, log.read_text, pause=0.3)
        variable = "RAY_API_SERVER_ADDRESS" if dashboard else "RAY_ADDRESS"
        yield Head(address, environment | {variable: address}, folder, of_drivers)
    finally:
        _stop(node.pid, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=30).close()
    except urllib.error.HTTPError as error:
        return error.code == 401  # it wants a token
    except OSError:
        return False
    return True


def _stop(pid: int, folder: Path) -> None:
    """The node's processes: its children, and those in other sessions that name its folder."""
    processes = psutil.Process(pid).children(recursive=True) if psutil.pid_exists(pid) else []
    for process in [*psutil.process_iter()]:
        with suppress(psutil.Error):
            if process.pid == pid or any(str(folder) in argument for argument in process.cmdline()):
                processes.append(process)
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    wait_until_gone(processes)
