"""The pool's dealings with MLflow, in a thread of their own: nothing else in the pool waits for it."""

from __future__ import annotations

import logging
import threading

from cluster.pool import mlflow_tags
from cluster.pool.board import Board
from cluster.runs.failures import cause

EVERY_SECONDS = 1.0
LONGEST_PAUSE = 15.0

logger = logging.getLogger(__name__)


class MlflowSync:
    """Registers what was trained and not registered, and lets MLflow know how jobs stand, later if need be.

    Args:
        board: of the pool, used only with ``lock`` held.
    """

    def __init__(self, board: Board, lock: threading.RLock) -> None:
        self._board, self._lock = board, lock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """From now on, until :meth:`stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more on."""
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
                result = mlflow_tags.register(job, self._board.folder(job))
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - the store is there and refuses: the job's own fault
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
                mlflow_tags.mirror(job, self._board.folder(job))
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - what MLflow shows of a job is not worth the job
                logger.warning("MLflow does not know of %s: %s", job.id, cause(error))
            with self._lock:
                self._board.journal.mirrored(job.id, transition)
