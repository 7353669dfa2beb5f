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
from cluster.names import history_of
from cluster.pool.board import Board
from cluster.pool.job import JobRecord, State
from cluster.runs.failures import cause, is_mendable
from cluster.tags import JOB, JOB_REASON, JOB_STATE
from cluster.tracking import runs, store, upload

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
        pause, said = EVERY_SECONDS, ""
        while not self._ended.wait(pause):
            try:
                store.import_all()  # before the first submission needs it
                for later in (self._register(), self._mirror()):
                    if later is not None:
                        raise later
                pause, said = EVERY_SECONDS, ""
            except BaseException as error:  # without this thread nothing would be registered any more
                pause = min(2 * pause, LONGEST_PAUSE)
                if cause(error) != said:
                    said = cause(error)
                    logger.warning("MLflow is told later: %s", said, exc_info=not isinstance(error, OSError))

    def _register(self) -> Exception | None:
        """Register what was trained; what kept one of the jobs from it for now, if anything did.

        Raises:
            ConnectionError: when the store does not answer.
        """
        with self._lock:
            trained = self._board.jobs("trained")
        later: Exception | None = None
        for job in trained:
            state: State = "succeeded"
            result, why = job.result or {}, None
            try:
                result = register_trained_job(job, self._board.folder(job))
            except Exception as error:  # noqa: BLE001 - one job's error must not hold up the others
                if not self._is_refused(error):
                    later = error
                    continue
                state, why = "failed", refusal(str(result.get("adapter_model")), error)
            with self._lock:
                if self._board.find(job.id, "trained"):  # it may have been cancelled
                    self._board.move(job, state, why, result=result, error=why)
        return later

    def _is_refused(self, error: Exception) -> bool:
        """Whether the store answered and refused, so that trying again would not help.

        Raises:
            ConnectionError: when it does not answer at all.
            ValueError: while the pool lacks the store's password.
        """
        uri = store.tracking_uri(self._board.settings.tracking_uri)
        if isinstance(error, ConnectionError):
            store.connect(uri)
            return isinstance(error, store.RefusedError)
        return not is_mendable(error)

    def _mirror(self) -> Exception | None:
        """Tell MLflow the jobs' states; returns and raises as :meth:`_register`."""
        with self._lock:
            waiting = self._board.journal.unmirrored()
        later: Exception | None = None
        for job, transition in waiting:
            try:
                mirror(job, self._board.folder(job))
            except Exception as error:  # noqa: BLE001 - a missing tag must not stop the pool
                if not self._is_refused(error):
                    later = error
                    continue
                logger.warning("MLflow does not know of %s: %s", job.id, cause(error))
            with self._lock:
                self._board.journal.mirrored(job.id, transition)
        return later


def refusal(name: str, error: Exception) -> str:
    """Why a task's result cannot be registered, in one line."""
    if isinstance(error, store.RefusedError):
        return f"models:/{name} or its log {history_of(name)} is another account's: {error}"
    return cause(error)


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
