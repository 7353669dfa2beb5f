"""The pool's traffic with MLflow, in a thread of its own, so that nothing else in the pool waits for it.

Every call is idempotent: adapters are registered by their digest, and a tag keeps the value it was set to
last.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from cluster.finetuning import job as finetuning
from cluster.pool.board import Board
from cluster.pool.job import JobRecord
from cluster.runs.failures import cause
from cluster.tags import JOB, JOB_REASON, JOB_STATE
from cluster.tracking import runs, upload

EVERY_SECONDS = 1.0
LONGEST_PAUSE = 15.0
STATUS = {
    "queued": "SCHEDULED",
    "running": "RUNNING",
    "trained": "FINISHED",
    "succeeded": "FINISHED",
    "failed": "FAILED",
    "cancelled": "KILLED",
}
"""MLflow run status by job state; a job that was killed could not set it itself."""

logger = logging.getLogger(__name__)


class MlflowSync:
    """Registers trained jobs and mirrors job states to MLflow, retrying while the store is unreachable.

    Args:
        board: the pool's board, used only while ``lock`` is held.
    """

    def __init__(self, board: Board, lock: threading.RLock) -> None:
        self._board, self._lock = board, lock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Start the thread; it runs until :meth:`stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current round."""
        self._ended.set()

    def _run(self) -> None:
        pause = EVERY_SECONDS
        while not self._ended.wait(pause):
            try:
                self._register()
                self._mirror()
                pause = EVERY_SECONDS
            except ConnectionError as error:
                logger.warning("later: %s", error)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _register(self) -> None:
        with self._lock:
            trained = self._board.jobs("trained")
        for job in trained:
            try:
                result = register_trained_job(job, self._board.folder(job))
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - the store answered and refused: the job fails
                with self._lock:
                    self._board.move(job, "failed", cause(error), error=cause(error))
            else:
                with self._lock:
                    self._board.move(job, "succeeded", result=result, error=None)

    def _mirror(self) -> None:
        with self._lock:
            waiting = self._board.journal.unmirrored()
        for job, transition in waiting:
            try:
                mirror(job, self._board.folder(job))
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - a missing tag must not stop the pool
                logger.warning("MLflow does not know of %s: %s", job.id, cause(error))
            with self._lock:
                self._board.journal.mirrored(job.id, transition)


def mirror(job: JobRecord, folder: Path) -> None:
    """Set a job's state in its MLflow run. A job that never started has no run.

    Raises:
        ConnectionError: when the store cannot be reached.
    """
    if not (folder / runs.RUN_FILE).is_file():
        return
    if job.state != "running":
        upload.sync(folder, seconds=0)  # events that a killed process did not send
    tags = {JOB: job.id, JOB_STATE: job.state, JOB_REASON: job.reason or job.error or ""}
    runs.tag_run(folder, tags, STATUS[job.state])


def register_trained_job(job: JobRecord, folder: Path) -> dict[str, Any]:
    """Register the weights of a trained job; its result, with the version.

    Raises:
        ConnectionError: when the store cannot be reached.
    """
    version = finetuning.register_job(folder)
    return {**(job.result or {}), "adapter_version": version.version}
