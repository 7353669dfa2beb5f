"""A warm process that has imported everything a job needs. Its forks, made in milliseconds, run the jobs.

A :class:`~cluster.pool.slot.Slot` starts it. It reads one order per line and writes a fork's pid and exit
code. It has no threads, because a fork would lack them. It ends with its input, and so do its jobs.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import ExitStack
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from typing_extensions import TypedDict  # pydantic wants this one below Python 3.12

from cluster.pool.actor import LOG
from cluster.tracking import runs, store
from odeformer.files.shown import masked

if TYPE_CHECKING:
    from cluster.finetuning.result import FinetuneResult
    from cluster.pool.slot import Order

OUTCOME = "outcome.json"
"""File in a job's folder that tells how its last attempt ended; an attempt that was killed writes none."""
MODULES = (
    "cluster.finetuning.job",
    "cluster.finetuning.together",
    "cluster.tasks.scoring",
    "cluster.training.worker",
    "data.tasks.stream",
    "data.tokenizer",
    "odeformer.checkpoint",
    "odeformer.lora",
    "torch._dynamo",  # torch imports it when a module is created on the meta device
)
"""The modules that a job imports."""
PRELOADING = ("cluster.registry.mlflow_model", "cluster.runs.deepspeed_import")
"""Modules whose ``preload`` does what every job would do anew."""
LOCK_SECONDS = 60.0
"""How long a job waits for the process of its last attempt to exit."""


Cause = Literal["memory", "stuck", "killed", "slot gone", "error"]
"""What an attempt failed for; ``error`` is one of the job itself."""


class Outcome(TypedDict, total=False):
    """How an attempt ended: with a result, preempted, or with an error."""

    attempt: int
    result: dict[str, Any]
    """The :class:`~cluster.finetuning.result.FinetuneResult` as JSON."""
    preempted: int
    """The step that was committed."""
    error: str
    is_its_own: bool
    """Whether the error is this job's own; if not, the job has to be tried alone."""
    is_mendable: bool
    """Whether another attempt may succeed."""
    is_store_away: bool
    """Whether the MLflow store could not be reached."""
    cause: Cause
    """How the process died."""


def main() -> None:
    """Execute orders until the input ends."""
    # Output of libraries must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    orders = os.fdopen(0, "rb", buffering=0)
    for module in MODULES:
        importlib.import_module(module)
    store.import_all()
    for module in PRELOADING:
        importlib.import_module(module).preload()
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
    """Wait for a fork; its exit code, negative if a signal ended it. It is killed when the input ends."""
    fork = os.pidfd_open(pid)
    watched = [fork, orders.fileno()]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if fork in ready:
            os.close(fork)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if not orders.readline():  # the slot is gone
            os.kill(pid, signal.SIGKILL)
            os._exit(1)


def _say(answers: IO[str], **content: Any) -> None:
    answers.write(json.dumps(content) + "\n")


def _work(order: Order) -> None:
    """Run an order in a fork: one job, or several together. Never returns."""
    code = 1
    try:
        _print_to_log(*(Path(job["folder"]) for job in order["jobs"]))
        code = _run(order)
    except BaseException:  # noqa: BLE001 - a fork must exit whatever happens
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # The exit handlers of the parent must not run in the fork.
        os._exit(code)


def _print_to_log(first: Path, *others: Path) -> None:
    """Redirect the process's output to the first job's log; the other jobs' logs refer to it."""
    for folder in (first, *others):
        folder.mkdir(parents=True, exist_ok=True)
    log = os.open(first / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for folder in others:
        _add_to_log(
            folder, f"trained together with other jobs: the output of their process is in {first / LOG}\n"
        )


def _add_to_log(folder: Path, text: str) -> None:
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(text)


def _run(order: Order) -> int:
    """Run the order's jobs; 1 if any has failed or has no outcome."""
    import torch

    from cluster.finetuning.job import finetune, finetune_together
    from cluster.runs import heartbeat, preemption
    from cluster.supervision import orphans
    from cluster.tasks.task import Task

    preemption.listen()
    orphans.end_with_parent()
    torch.set_num_threads(order["cpus"])
    jobs, uri = order["jobs"], store.tracking_uri(order["uri"])
    folders = [Path(job["folder"]) for job in jobs]
    tasks = [Task.model_validate(job["task"]) for job in jobs]
    locks = [ExitStack() for _ in jobs]
    running, failed = set(range(len(jobs))), set[int]()

    def end(number: int, how: FinetuneResult | Exception, *, is_its_own: bool = True) -> None:
        """Write a job's outcome and unlock its folder: the pool may act on it while other jobs go on."""
        outcome = _outcome(how, is_its_own)
        if "error" in outcome:
            failed.add(number)
            _add_to_log(folders[number], masked("".join(traceback.format_exception(how))))  # type: ignore[arg-type]
        runs.write_json(folders[number] / OUTCOME, {"attempt": jobs[number]["attempt"], **outcome})
        running.remove(number)
        locks[number].close()

    # A slot does not wait for the registry: the pool registers later what could not be registered at once.
    with heartbeat.beating(folders[0] / heartbeat.FOLDER, 0, socket.gethostname()):
        try:
            for folder, lock in zip(folders, locks, strict=True):
                _hold(folder, lock)
            if len(jobs) == 1:
                end(0, finetune(tasks[0], folders[0], uri, register_seconds=0))
            else:
                finetune_together(tasks, folders, uri, register_seconds=0, on_end=end)
        except Exception as error:  # noqa: BLE001 - the outcome reports it
            for number in sorted(running):
                end(number, error, is_its_own=len(jobs) == 1)
    return int(bool(failed or running))


def _outcome(how: FinetuneResult | Exception, is_its_own: bool) -> Outcome:
    """The outcome of a job's result, or of the error that ended it."""
    from cluster.finetuning.together import JointPassError
    from cluster.runs import failures

    if isinstance(how, failures.PreemptedError):
        return {"preempted": how.step}
    if not isinstance(how, Exception):
        return {"result": asdict(how)}
    return {
        "error": failures.cause(how),
        "is_its_own": is_its_own and not isinstance(how, JointPassError),
        "is_mendable": failures.is_mendable(how),
        "is_store_away": isinstance(how, ConnectionError),
    }


def _hold(folder: Path, until_end: ExitStack) -> None:
    """Lock the job's folder; a process of it that the pool has lost may hold it for a little longer."""
    from cluster.runs import lock

    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            until_end.enter_context(lock.held(folder))
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)
