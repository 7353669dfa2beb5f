"""A process that has imported all that a job needs. Copies of it, made in milliseconds (fork), run the jobs.

It is started by a :class:`~cluster.pool.slot.Slot`, reads one order a line, and writes what becomes of it. It
has no threads: a copy would lack them. It ends when its input does, and so do its jobs.
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
from typing import IO, TYPE_CHECKING, Any

from cluster.tracking import runs, store

if TYPE_CHECKING:
    from cluster.finetuning.result import FinetuneResult

LOG = "log.txt"
"""In a job's folder: what its processes have printed, and the error that it failed with."""
OUTCOME = "outcome.json"
"""In a job's folder: how its last attempt ended, in the job's own words. One that was killed left none."""
MODULES = (
    "cluster.finetuning.job",
    "cluster.finetuning.together",
    "cluster.tasks.scoring",
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
    importlib.import_module("cluster.runs.deepspeed_import").preload()
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
    """Wait for a copy; its exit code, negative where a signal ended it. It is killed when our input ends."""
    copy = os.pidfd_open(pid)
    watched = [copy, orders.fileno()]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if copy in ready:
            os.close(copy)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if not orders.readline():  # the slot has gone: nobody waits for it any more
            os.kill(pid, signal.SIGKILL)
            os._exit(1)


def _say(answers: IO[str], **content: Any) -> None:
    answers.write(json.dumps(content) + "\n")


def _work(order: dict[str, Any]) -> None:
    """The copy's part: one job, or several together, each to its outcome. Never returns."""
    code = 1
    try:
        _print_to_log(*(Path(job["folder"]) for job in order["jobs"]))
        code = _run(order)
    except BaseException:  # noqa: BLE001 - whatever it is, this is a copy and must end
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Nothing of the process that this one is a copy of may run at its exit.
        os._exit(code)


def _print_to_log(first: Path, *others: Path) -> None:
    """What the process prints goes into the first job's log; the others' say so."""
    for folder in (first, *others):
        folder.mkdir(parents=True, exist_ok=True)
    log = os.open(first / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for folder in others:
        _add_to_log(folder, f"together with other jobs: what their process prints is in {first / LOG}\n")


def _add_to_log(folder: Path, text: str) -> None:
    with (folder / LOG).open("a") as log:
        log.write(text)


def _run(order: dict[str, Any]) -> int:
    """Run the order's jobs; 1 if one of them has failed, or has no outcome."""
    import torch

    from cluster.finetuning.job import finetune, finetune_together
    from cluster.runs import preemption
    from cluster.supervision import orphans
    from cluster.tasks.task import Task

    preemption.listen()
    orphans.end_with_parent()
    torch.set_num_threads(order["cpus"])
    jobs, uri = order["jobs"], order["uri"]
    folders, tasks = [Path(job["folder"]) for job in jobs], [Task.model_validate(job["task"]) for job in jobs]
    held = [ExitStack() for _ in jobs]
    running, failed = set(range(len(jobs))), set[int]()

    def end(number: int, how: FinetuneResult | Exception, *, is_its_own: bool = True) -> None:
        """Write a job's outcome and let go of its folder: the pool may act on it while others go on."""
        outcome = _outcome(how, is_its_own)
        if "error" in outcome:
            failed.add(number)
            _add_to_log(folders[number], "".join(traceback.format_exception(how)))  # type: ignore[arg-type]
        runs.write_json(folders[number] / OUTCOME, {"attempt": jobs[number]["attempt"], **outcome})
        running.remove(number)
        held[number].close()

    # To be registered later is the pool's business, not one that a slot waits for.
    try:
        for folder, until_end in zip(folders, held, strict=True):
            _hold(folder, until_end)
        if len(jobs) == 1:
            end(0, finetune(tasks[0], folders[0], uri, register_seconds=0))
        else:
            finetune_together(tasks, folders, uri, register_seconds=0, on_end=end)
    except Exception as error:  # noqa: BLE001 - it is passed on in words
        for number in sorted(running):
            end(number, error, is_its_own=len(jobs) == 1)
    return int(bool(failed or running))


def _outcome(how: FinetuneResult | Exception, is_its_own: bool) -> dict[str, Any]:
    """How a job ended, in words that the pool knows.

    Args:
        how: its result, or what ended it.
        is_its_own: that error; otherwise it says nothing of the job, which has to be tried alone.
    """
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
    """Hold the job's folder: a process of it that the pool has lost may still be there, and ends soon."""
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
