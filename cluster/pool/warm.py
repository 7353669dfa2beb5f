"""A process that has imported all that a job needs. Each job is a copy of it, made in milliseconds (fork).

It is started by a :class:`~cluster.pool.slot.Slot`, reads one order a line, and writes what becomes of it. It
has no threads: a copy would lack them. It ends when its input does, and so does its job.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from contextlib import ExitStack
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import IO, Any

from cluster.tracking import runs, store

LOG = "log.txt"
"""In a job's folder: what its processes have printed."""
OUTCOME = "outcome.json"
"""In a job's folder: how its last attempt ended, in the job's own words. One that was killed left none."""
MODULES = (
    "cluster.finetuning.job",
    "cluster.scoring",
    "cluster.training.worker",
    "data.tasks.stream",
    "data.tokenizer",
    "odeformer.checkpoint",
    "odeformer.lora",
    "torch._dynamo",  # by torch itself, when a module is made without memory
)
"""What a job imports."""
LOCK_SECONDS = 60.0
"""How long a job waits for the process of its last attempt to be gone."""


def main() -> None:
    """Take orders until there are no more."""
    # What libraries print must not get among our answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    orders = os.fdopen(0, "rb", buffering=0)
    for module in MODULES:
        importlib.import_module(module)
    store.import_client()
    importlib.import_module("cluster.training.zero").preload()
    _say(answers, ready=True)
    while line := orders.readline():
        pid = os.fork()
        if pid == 0:
            answers.close()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            _work(json.loads(line))
        _say(answers, pid=pid)
        _say(answers, status=_wait(pid, orders))


def _wait(pid: int, orders: FileIO) -> int:
    """Wait for a job; its exit code, negative where a signal ended it. It is killed when our input ends."""
    job = os.pidfd_open(pid)
    watched = [job, orders.fileno()]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if job in ready:
            os.close(job)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if not orders.readline():  # the slot has gone: nobody waits for this job any more
            os.kill(pid, signal.SIGKILL)
            os._exit(1)


def _say(answers: IO[str], **content: Any) -> None:
    answers.write(json.dumps(content) + "\n")


def _work(order: dict[str, Any]) -> None:
    """The copy's part: one job, from its last checkpoint on, and its outcome. Never returns."""
    code = 1
    try:
        folder = Path(order["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = _run(order, folder)
    except BaseException:  # noqa: BLE001 - whatever it is, this is a copy and must end
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Nothing of the process that this one is a copy of may run at its exit.
        os._exit(code)


def _run(order: dict[str, Any], folder: Path) -> int:
    import torch

    from cluster import failures
    from cluster.finetuning.job import finetune
    from cluster.finetuning.task import Task
    from cluster.supervision import orphans, preemption

    preemption.listen()
    orphans.end_with_parent()
    torch.set_num_threads(order["cpus"])
    attempt = {"attempt": order["attempt"]}
    with ExitStack() as until_end:
        try:
            _hold(folder, until_end)
            # To be registered later is the pool's business, not one that a slot waits for.
            result = finetune(Task.model_validate(order["task"]), folder, order["uri"], register_seconds=0)
        except failures.PreemptedError as error:
            runs.write_json(folder / OUTCOME, {**attempt, "preempted": error.step})
            return os.EX_TEMPFAIL
        except Exception as error:  # noqa: BLE001 - it is passed on in words
            traceback.print_exc()
            is_mendable = failures.is_mendable(error)
            reason = {"error": failures.cause(error), "is_mendable": is_mendable}
            away = isinstance(error, ConnectionError)
            runs.write_json(folder / OUTCOME, {**attempt, **reason, "is_store_away": away})
            return 1
        runs.write_json(folder / OUTCOME, {**attempt, "result": asdict(result)})
    return 0


def _hold(folder: Path, until_end: ExitStack) -> None:
    """Hold the job's folder: a process of it that the pool has lost may still be there, and ends soon."""
    from cluster import lock

    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            until_end.enter_context(lock.held(folder))
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)
