"""Programs that are started again when they end, and the faults that strike them, for :mod:`chaos`."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cluster.faults import FAULTS, PREEMPTED, Program, odeformer
from benchmarks.cluster.proxy import Proxy, free_port

SLOTS = 2
LASTS = (5.0, 30.0)
"""The least and the most seconds that a stop, a full disk or a missing network lasts."""
PAUSE = 2.0
"""Seconds from the end of a program to its next start."""
MARK = "ODEFORMER_CHAOS"
"""The variable in the environment of all that is started here, by which it is known whose it is."""
EXPECTED_EXITS = (0, 1, PREEMPTED, 128 + signal.SIGTERM, -signal.SIGKILL)
"""A run's exit codes: trained, failed, preempted, told to end at once, killed; 2 is a user's mistake."""
Undo = Callable[[], None]


class Restarted(Program):
    """A program that is started again whenever it ends; with ``until_done`` only until it succeeds."""

    def __init__(
        self, name: str, command: list[str], chaos: Chaos, until_done: bool = False, joins: bool = False
    ) -> None:
        """``joins``: whether it is told the address of the pool's cluster."""
        environment = chaos.environment | ({} if joins else {"RAY_ADDRESS": ""})
        super().__init__(name, command, chaos.folder, chaos.run_folder, environment)
        self._chaos, self._until_done = chaos, until_done
        self.is_done = False
        self._not_before = 0.0

    def look(self) -> None:
        """Note its end, and start it when it is time to."""
        if self.has_ended():
            code = self.exits[-1]
            if self.name == "run" and code not in EXPECTED_EXITS:
                self._chaos.find(f"the run exited with {code}: {self.said()[-1500:]}")
            self.is_done = self._until_done and code == 0
            self._not_before = time.monotonic() + PAUSE
        if self.process is None and not self.is_done and time.monotonic() >= self._not_before:
            self.start()


class Chaos:
    """The programs, the faults that are under way, and what was found."""

    def __init__(self, folder: Path, run: Path, pool: Path, chance: random.Random) -> None:
        self.folder, self.run_folder, self.pool_folder, self.chance = folder, run, pool, chance
        self.secret, mark, port = secrets.token_hex(24), secrets.token_hex(8), free_port()
        self.environment = os.environ | {
            MARK: mark,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ADDRESS": f"127.0.0.1:{port}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "MLFLOW_TRACKING_USERNAME": "somebody",
            "MLFLOW_TRACKING_PASSWORD": self.secret,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "OMP_NUM_THREADS": "1",
        }
        server_port = free_port()
        self.proxy = Proxy(server_port)
        self.server_uri, self.uri = (f"http://127.0.0.1:{p}" for p in (server_port, self.proxy.port))
        server = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(server_port)]
        server += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
        self.mlflow = Restarted("mlflow", [*server, "--artifacts-destination", f"{folder}/artifacts"], self)
        head = f"ray start --head --block --port={port} --node-ip-address=127.0.0.1 --num-cpus={SLOTS}"
        head += f" --include-dashboard=false --object-store-memory={128 * 2**20} --temp-dir={folder}/ray"
        ray = [str(Path(sys.executable).parent / "ray"), *head.split()[1:]]
        self.head = Restarted("head", [*ray, f"--resources={json.dumps({'finetune': SLOTS})}"], self)
        self.run = Restarted("run", [odeformer(), "pretrain", "config.json"], self, until_done=True)
        self.pool = Restarted("pool", [odeformer(), "pool", "start", "pool.json"], self, True, joins=True)
        code = f"from benchmarks.cluster.supervised import submit_all; submit_all({str(folder)!r})"
        self.submit = Restarted("submit", [sys.executable, "-c", code], self, True, joins=True)
        self.undo: dict[str, tuple[float, Undo]] = {}
        self.struck: Counter[str] = Counter()
        self.findings: Counter[str] = Counter()
        self.sessions: set[str] = set()
        self._heads, self._states, self._looked = 0, dict[str, str](), 0.0

    def find(self, what: str) -> None:
        """Note something that must not be; the same again is only counted."""
        if not self.findings[what]:
            print(f"FOUND {what}", flush=True)
        self.findings[what] += 1

    def ours(self, name: str = "") -> list[psutil.Process]:
        """The processes that descend from this benchmark, of a name or all."""
        found = []
        for process in psutil.process_iter(["name"]):
            with suppress(psutil.Error):
                if name in process.info["name"] and process.environ().get(MARK) == self.environment[MARK]:
                    found.append(process)
        return found

    def of_pool(self, name: str) -> psutil.Process | None:
        """A process of the pool with this name; the run has a Ray cluster of its own."""
        of_run = {process.pid for process in self.run.family()}
        found = [process for process in self.ours(name) if process.pid not in of_run]
        return self.chance.choice(found) if found else None

    def job(self) -> psutil.Process | None:
        """The process of a job that runs."""
        alive = {process.pid: process for process in self.ours()}
        found = []
        for lock in self.pool_folder.glob("*/*/.lock"):
            with suppress(OSError, IndexError, ValueError):
                found.append(alive.get(int(lock.read_text(encoding="utf-8").split()[1])))
        there = [process for process in found if process is not None]
        return self.chance.choice(there) if there else None

    def states(self) -> dict[str, str]:
        """The state of each ``team-name``, by a copy of the journal, which the pool has for itself."""
        copy = self.folder / "copy.db"
        with suppress(OSError, sqlite3.Error):  # half of a change was copied: what was known before counts
            for end in ("", "-wal"):
                shutil.copyfile(f"{self.pool_folder}/journal.db{end}", f"{copy}{end}")
            with closing(sqlite3.connect(copy)) as journal:
                self._states = dict(journal.execute("SELECT team || '-' || name, state FROM jobs"))
        return self._states

    def look(self) -> None:
        """Start what has ended, and undo what has lasted long enough."""
        for program in (self.mlflow, self.head, self.run):
            program.look()
        if time.monotonic() > self._looked + PAUSE:
            self._looked = time.monotonic()
            with suppress(psutil.Error):
                words = " ".join(" ".join(process.cmdline()) for process in self.run.family())
                self.sessions |= set(re.findall(r"/tmp/odf-\w+", words))
        if len(self.head.exits) != self._heads:  # a new cluster has no pool yet
            self._heads, self.pool.is_done = len(self.head.exits), False
        if self.head.process is not None:
            self.pool.look()
        if self.pool.is_done:
            self.submit.look()
        for name, (until, undo) in list(self.undo.items()):
            if time.monotonic() >= until:
                del self.undo[name]
                with suppress(psutil.NoSuchProcess):
                    undo()

    def strike(self) -> None:
        """Let one fault happen, of those that can happen now."""
        names = [fault for fault in STRIKES if fault not in self.undo]
        rare = [1 / (1 + self.struck[fault]) ** 2 for fault in names]
        [name] = self.chance.choices(names, rare)
        with suppress(psutil.NoSuchProcess, IndexError):
            undo = STRIKES[name](self)
            if undo is False:
                return
            self.struck[name] += 1
            print(
                f"{time.strftime('%H:%M:%S')} {name}; jobs {dict(Counter(self.states().values()))}",
                flush=True,
            )
            if callable(undo):
                self.undo[name] = time.monotonic() + self.chance.uniform(*LASTS), undo


Strike = Callable[[Chaos], Any]


def to_run(fault: str) -> Strike:
    """A fault of :mod:`benchmarks.cluster.faults`, to the run."""

    def strike(chaos: Chaos) -> Any:
        if chaos.run.process is None:
            return False
        return FAULTS[fault](chaos.run, chaos.chance)

    return strike


def killed(found: Callable[[Chaos], psutil.Process | None]) -> Strike:
    """Kill a process, if it is there."""
    return lambda chaos: process.kill() if (process := found(chaos)) is not None else False


def kill_server(chaos: Chaos) -> Any:
    """Kill MLflow's server with its own workers, which would keep its port."""
    family = chaos.mlflow.family()
    for process in family:
        process.kill()
    return None if family else False


def stopped(found: Callable[[Chaos], psutil.Process | None]) -> Strike:
    """Stop a process, if it is there, and continue it later."""

    def strike(chaos: Chaos) -> Any:
        process = found(chaos)
        if process is None:
            return False
        process.suspend()
        return process.resume

    return strike


def filled(disk: Callable[[Chaos], Path]) -> Strike:
    """Fill a disk to its last byte, and free it later."""

    def strike(chaos: Chaos) -> Undo:
        ballast = disk(chaos).parent / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**16))
        return lambda: ballast.unlink(missing_ok=True)

    return strike


def without_network(mode: str) -> Strike:
    """Let the network to the store refuse or swallow everything, and mend it later."""

    def strike(chaos: Chaos) -> Any:
        return chaos.proxy.become(mode) if chaos.proxy.mode == "pass" else False

    return strike


def _worker(chaos: Chaos) -> psutil.Process | None:
    workers = chaos.run.workers()
    return chaos.chance.choice(workers) if workers else None


def _named(name: str) -> Callable[[Chaos], psutil.Process | None]:
    return lambda chaos: chaos.of_pool(name)


def _first(program: str) -> Callable[[Chaos], psutil.Process | None]:
    return lambda chaos: next(iter(getattr(chaos, program).family()), None)


POOL = {"actor": _named("ray::PoolActor"), "gcs": _named("gcs_server"), "raylet": _named("raylet")}
STRIKES: dict[str, Strike] = {
    **{f"{name} (run)": to_run(name) for name in FAULTS if name != "stop_worker"},
    "stop_worker (run)": stopped(_worker),
    "stop_command (run)": stopped(_first("run")),
    "kill_job": killed(Chaos.job),
    "stop_job": stopped(Chaos.job),
    **{f"kill_{name} (pool)": killed(found) for name, found in POOL.items()},
    **{f"stop_{name} (pool)": stopped(found) for name, found in POOL.items()},
    "kill_mlflow": kill_server,
    "stop_mlflow": stopped(_first("mlflow")),
    "fill_disk (run)": filled(lambda chaos: chaos.run_folder),
    "fill_disk (pool)": filled(lambda chaos: chaos.pool_folder),
    "network_refuses": without_network("refuse"),
    "network_hangs": without_network("hang"),
}
"""The faults; each returns how it is undone if it lasts, and False if there was nothing to strike."""


def submit_all(folder: str) -> None:
    """Submit all tasks of a folder; those whose answer was lost are known, and refused."""
    from cluster.pool import Pool
    from cluster.tasks.task import Task

    with Pool.connect(os.environ["RAY_ADDRESS"]) as pool:
        for file in sorted(Path(folder).glob("tasks/*.json"), key=lambda file: file.stem[::-1]):
            try:
                pool.submit(Task.model_validate_json(file.read_bytes()))
            except ValueError as error:
                if "has a job" not in str(error):
                    raise
