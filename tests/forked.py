"""Real processes that start in milliseconds: copies of one that has imported the libraries.

Python's own fork server does the work. It has used none of them yet, so its copies are what a fresh
interpreter is after the same imports. What tests the start of an interpreter itself does not belong here.
"""

from __future__ import annotations

import atexit
import multiprocessing as mp
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from waiting import DEADLINE

SERVER = mp.get_context("forkserver")


def _serve() -> None:
    """Start the fork server, which finds :mod:`preloaded` beside this file, unless it runs."""
    from multiprocessing.forkserver import ensure_running, set_forkserver_preload

    here, path = str(Path(__file__).parent), os.environ.get("PYTHONPATH")
    set_forkserver_preload(["preloaded"])
    os.environ["PYTHONPATH"] = os.pathsep.join([here, str(Path(here).parent), *filter(None, [path])])
    try:
        ensure_running()
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


def spawn(work: Callable[..., None], args: Sequence[Any] = (), nprocs: int = 1, join: bool = True) -> Any:
    """``torch.multiprocessing.spawn``: ``work(rank, *args)`` in new processes, with today's environment."""
    _serve()
    return torch.multiprocessing.start_processes(
        _work, (dict(os.environ), work, *args), nprocs, join=join, start_method="forkserver"
    )


def _work(rank: int, environment: dict[str, str], work: Callable[..., None], *args: Any) -> None:
    _take(environment)
    work(rank, *args)


def _take(environment: Mapping[str, str]) -> None:
    """The fork server's environment is as old as itself."""
    from preloaded import SET_BY_IMPORTS

    os.environ.clear()
    os.environ.update({**SET_BY_IMPORTS, **environment})
    # One thread, as conftest has it for the tests themselves: small products on shared cores stall on two.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


class Command:
    """``odeformer`` with these arguments, in a process of its own; what it prints goes into files.

    Args:
        arguments: of the command line.
        cwd: the folder it runs in.
        env: its environment; this process's when not given.
        start_new_session: as a shell would for a job, so that signals can be sent to all of it.
        program: what is run in its place, a function of a module.
    """

    def __init__(
        self,
        *arguments: str | Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
        program: Callable[[], None] | None = None,
    ) -> None:
        _serve()
        self.arguments = [str(argument) for argument in arguments]
        self._folder = tempfile.TemporaryDirectory(prefix="odf-command-")
        self._printed = [Path(self._folder.name) / name for name in ("out", "err")]
        environment = dict(os.environ if env is None else env)
        given = (self.arguments, str(cwd), environment, self._printed, start_new_session, program)
        self._process = SERVER.Process(target=_run, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative where a signal ended it; nothing while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same, as ``subprocess.Popen`` has it."""
        return self.returncode

    def wait(self, timeout: float = DEADLINE) -> int:
        """Wait for its end; its exit code."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout)
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """Wait for its end; what it printed, and what it printed of errors."""
        self.wait()
        out, err = (path.read_text() for path in self._printed)
        return out, err

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it."""
        self._process.kill()


def run(
    *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``odeformer`` to its end."""
    command = Command(*arguments, cwd=cwd, env=env)
    try:
        out, err = command.communicate()
    finally:
        command.kill()
    assert command.returncode is not None
    return subprocess.CompletedProcess(command.arguments, command.returncode, out, err)


def _run(
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    printed: list[Path],
    start_new_session: bool,
    program: Callable[[], None] | None,
) -> None:
    """The command's part."""
    if start_new_session:
        os.setsid()
    os.chdir(folder)
    _take(environment)
    for number, path in enumerate(printed, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.argv = ["odeformer", *arguments]
    sys.path[0] = str(Path(sys.executable).parent)  # not the folder that the fork server was started in
    time.tzset()
    if program is None:
        from launcher.cli.main import main as program
    try:
        program()
    finally:
        # A copy does not get to where an interpreter of its own would run these.
        atexit._run_exitfuncs()
