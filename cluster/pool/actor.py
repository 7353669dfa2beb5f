"""The pool itself: a detached Ray actor, whose memory is the journal."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.connection import credentials
from cluster.pool.access import Access, AuditEntry, Key
from cluster.pool.job import CANCELLED, ENDED, HistoryEntry, Job, JobDetails, JobRecord, Transition
from cluster.pool.settings import PoolSettings
from cluster.pool.status import PoolStatus
from cluster.runs.events import FILE_NAME as EVENTS
from cluster.runs.events import LoggedEvent, events_from
from cluster.runs.failures import QueueFullError
from cluster.runs.pace import time_left
from cluster.supervision import orphans
from odeformer.files.shown import masked, masked_values

if TYPE_CHECKING:
    from cluster.tasks.task import Task

LOOK_SECONDS = 0.1
JOURNAL_SECONDS = 60.0
"""How long a restarted pool waits for its previous process to release the journal."""
TROUBLE_SECONDS = 1.0
"""Delay between two tries while the disk refuses something."""
LAST_LINES = 20
LOG_BYTES = 2**16
LOG_FILE = "pool.log"
LOG_FORMAT = "%(asctime)s %(message)s"
EVENT_BYTES = 2**18
LOG = "log.txt"
"""File in a job's folder with the output of its processes and the traceback of its failure."""

logger = logging.getLogger(__name__)


class _Masked(logging.Formatter):
    """A format without the passwords in addresses: traceback and all."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class PoolActor:
    """The actor behind :class:`~cluster.pool.client.Pool`, which documents the methods; one per cluster.

    Calls may overlap, and may be repeated: Ray repeats them when it had to restart the actor. Each client
    imports this class's module, so what the actor alone needs is imported in its methods.

    Args:
        settings: the pool's settings; those in its journal take precedence.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        # Ray leaves the processes of a killed raylet alive, and this one holds the journal.
        orphans.end_with_parent()
        handler = logging.StreamHandler()  # into Ray's own logs, which are on another disk
        handler.setFormatter(_Masked(LOG_FORMAT))
        logging.basicConfig(handlers=[handler])
        self._given = PoolSettings.model_validate(settings)
        self._lock = threading.RLock()
        self._is_open = False
        self._trouble: str | None = None
        try:
            self._open()
        except BlockingIOError:
            raise
        except OSError as error:  # Ray gives up an actor whose constructor fails
            self._note(error)
        threading.Thread(target=self._run, daemon=True).start()

    def _open(self) -> None:
        """Read the journal, and settle what ran when the pool ended."""
        from cluster.pool.board import Board, read_settings
        from cluster.pool.dispatch import Dispatcher
        from cluster.pool.journal import Journal
        from cluster.pool.metrics import PoolMetrics
        from cluster.pool.mlflow_sync import MlflowSync
        from cluster.pool.slots import Slots

        folder = self._given.dir
        credentials.take(folder)
        journal = Journal(folder, JOURNAL_SECONDS)
        try:
            _, known, is_draining = (read_settings(journal) or [(0.0, self._given, False)])[-1]
            known = known.model_copy(update={"dir": folder})
            board = Board(journal, known)
            slots = Slots(known.cpus_per_job, known.gpus_per_job, folder)
            metrics = PoolMetrics()
            dispatcher = Dispatcher(board, slots, metrics)
            dispatcher.is_draining = is_draining
            dispatcher.recover()
            (folder / LOG_FILE).touch(mode=0o600)
        except BaseException:
            journal.close()
            raise
        to_file = logging.FileHandler(folder / LOG_FILE, encoding="utf-8")
        to_file.setFormatter(_Masked(LOG_FORMAT))
        logging.getLogger().addHandler(to_file)
        self._journal, self._board, self._slots, self._dispatcher = journal, board, slots, dispatcher
        self._metrics, self._access = metrics, Access(journal)
        self._mlflow = MlflowSync(board, self._lock)
        self._mlflow.start()
        self._is_open = True

    def _run(self) -> None:
        try:
            while True:
                try:
                    with self._lock:
                        if not self._is_open:
                            self._open()
                        self._dispatcher.look()
                        self._metrics.look(self._board, self._slots)
                        if self._trouble is not None:
                            self._trouble = None
                            logger.warning("the pool goes on")
                except OSError as error:
                    self._note(error)
                    time.sleep(TROUBLE_SECONDS)
                time.sleep(LOOK_SECONDS)
        except BaseException:  # a pool that schedules nothing must not look alive
            logger.exception("the pool starts again")
            os._exit(1)  # Ray restarts the actor, and the journal has its state

    def _note(self, error: OSError) -> None:
        """Keep what the disk refuses, and say it once."""
        trouble = str(error)
        if trouble != self._trouble:
            logger.warning("the pool waits for its disk: %s", trouble)
        self._trouble = trouble

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Hold the lock, once the journal has been read.

        Raises:
            OSError: when it could not be read yet.
        """
        with self._lock:
            if not self._is_open:
                raise OSError(f"the pool waits for its disk: {self._trouble}")
            yield

    def configure(self, settings: dict[str, Any], variables: dict[str, str], who: str = "") -> None:
        with self._opened():
            self._access.note(who, "configured", "the pool")
            now, checked = time.time(), PoolSettings.model_validate(settings)
            variables = {**credentials.ours(), **variables, "MLFLOW_TRACKING_URI": settings["tracking_uri"]}
            # For the slots, and for the next process of this pool.
            credentials.write(self._board.settings.dir, variables)
            self._keep(checked, False, now)
            os.environ.update(variables)
            self._board.configure(checked, now)
            self._dispatcher.is_draining = self._dispatcher.is_stopping = False

    def uri(self) -> str:
        from cluster.tracking import store

        with self._opened():
            return store.tracking_uri(self._board.settings.tracking_uri)

    def may_start_from(self, base: str, team: str) -> bool:
        from cluster import registry
        from cluster.tags import TEAM
        from cluster.tracking import store

        store.import_all()
        try:
            version = registry.resolve(base, self.uri())
        except ValueError:
            return False
        return version.tags.get(TEAM, team) == team

    def submit(self, task: dict[str, Any], token: str, again: bool = False, who: str = "") -> str:
        from cluster.finetuning.job import check_base
        from cluster.tasks.task import Task
        from cluster.tracking import store

        def known() -> str | None:  # the answer was lost, and Ray repeats the call
            return self._journal.submit(task, token).id if self._journal.knows(token) else None

        checked = Task.model_validate(task)
        with self._opened():
            if job := known():
                return job
        # Nobody waits for the store meanwhile.
        store.import_all()
        checked = check_base(checked, self.uri())
        deadline = None if checked.deadline is None else checked.deadline.timestamp()
        with self._opened():
            self._admit(checked, again)
        if checked.trial is None:
            self._claim(checked)
        with self._opened():
            if job := known():
                return job
            self._admit(checked, again)
            content = checked.model_dump(mode="json")
            made = self._board.submit(content, token, deadline, again, _by("submitted", who))
            self._access.note(who, "submitted", made.id)
            return made.id

    def _claim(self, task: Task) -> None:
        """Make the registered models of a task's result, or refuse it: after training it is too late."""
        from cluster.finetuning.result import model_name
        from cluster.pool.mlflow_sync import refusal
        from cluster.registry.ownership import Owner, claim
        from cluster.tracking.store import RefusedError

        uri = self.uri()
        name = model_name(task, uri)
        try:
            claim(name, Owner(task.team, task.name), uri)
        except RefusedError as error:
            raise ValueError(f"name: {refusal(name, error)}") from None
        except ValueError as error:
            raise ValueError(f"name: {error}") from None

    def _admit(self, task: Task, again: bool) -> None:
        """Refuse a task that the pool's settings, its jobs or its state do not allow."""
        self._journal.free_number(task.team, task.name, task.base, again=again)
        settings = self._board.settings
        team = settings.team(task.team)
        if settings.unknown_teams == "refuse" and task.team not in settings.teams:
            named = ", ".join(sorted(settings.teams)) or "none"
            raise ValueError(
                f"team: {task.team} is none of the pool's teams (unknown_teams: refuse): {named}"
            )
        if self._dispatcher.is_draining:
            raise ValueError("the pool is being drained: run odeformer pool start before submitting again")
        if task.deadline is not None and task.deadline.timestamp() <= time.time():
            raise ValueError(f"deadline: {task.deadline.isoformat()} has passed")
        if task.priority > team.max_priority:
            raise ValueError(
                f"priority: {task.priority} is above {team.max_priority}, the highest that team {task.team} "
                "may use"
            )
        waiting = self._journal.count(task.team, "queued")
        if waiting >= team.max_queued:
            raise QueueFullError(
                f"team: {task.team} has {waiting} jobs queued, its quota (max_queued): wait until one has "
                "started, or cancel one"
            )

    def jobs(self, team: str | None = None) -> list[Job]:
        with self._opened():
            return [Job(**self._view(job)) for job in self._journal.jobs(team=team)]

    def job(self, job_id: str) -> JobDetails:
        with self._opened():
            job = self._journal.job(job_id)
            history = [self._history(entry) for entry in self._journal.transitions(job_id)]
            view = self._view(job)
        folder, left = self._board.folder(job), None
        if job.state == "running":
            left = time_left(_last_events(folder / EVENTS), job.task["train"]["steps"])
        return JobDetails(**view, history=history, last_lines=_last_lines(folder / LOG), time_left=left)

    def events(self, job_id: str, offset: int = 0) -> tuple[list[LoggedEvent], int]:
        with self._opened():
            folder = self._board.folder(self._journal.job(job_id))
        return events_from(folder / EVENTS, offset, EVENT_BYTES)

    def transitions(self) -> list[Transition]:
        with self._opened():
            return self._journal.transitions()

    def cancel(self, job_id: str, who: str = "") -> str:
        with self._opened():
            job = self._journal.job(job_id)
            if job.state not in ENDED:
                self._access.note(who, "cancelled", job_id)
            if job.state in ("queued", "trained"):
                job = self._board.move(job, "cancelled", _by("", who) or None)
            if job.state == "running":
                self._dispatcher.stop_job(job, _by(CANCELLED, who))
            return job.state

    def retry(self, job_id: str, who: str = "") -> str:
        with self._opened():
            job = self._journal.job(job_id)
            if job.state == "succeeded":
                raise ValueError(f"job {job_id} has succeeded: there is nothing to retry")
            if job.deadline is not None and job.deadline <= time.time():
                raise ValueError(
                    f"job {job_id} is past its deadline: submit it under another name, with a later one"
                )
            if job.state in ("failed", "cancelled"):
                self._access.note(who, "tried again", job_id)
                job = self._board.move(
                    job, "queued", _by("tried again", who), failures=0, failed_at=-1, error=None
                )
            return job.state

    def add_key(self, key: Key, key_hash: str, who: str = "") -> None:
        with self._opened():
            self._access.note(who, "added", f"{key.id} of {key.team}, {key.role}")
            self._access.add(key, key_hash)

    def keys(self) -> list[Key]:
        with self._opened():
            return self._access.all_keys()

    def key(self, key_hash: str) -> Key | None:
        with self._opened():
            return self._access.find(key_hash)

    def revoke_key(self, key_id: str, who: str = "") -> Key:
        with self._opened():
            key = self._access.revoke(key_id)
            self._access.note(who, "revoked", key.who)
            return key

    def note(self, who: str, action: str, subject: str) -> None:
        with self._opened():
            self._access.note(who, action, subject)

    def audit(self) -> list[AuditEntry]:
        with self._opened():
            return self._access.audit()

    def status(self) -> PoolStatus:
        from cluster.pool import reporting

        with self._lock:
            if not self._is_open:
                return reporting.waiting(self._given, self._trouble)
            return reporting.working(self._board, self._dispatcher, self._slots, self._trouble)

    def drain(self, who: str = "") -> None:
        with self._opened():
            self._access.note(who, "drained", "the pool")
            self._keep(self._board.settings, True, time.time())
            self._dispatcher.is_draining = True

    def stop(self) -> int:
        with self._lock:
            if not self._is_open:
                return 0
            self._dispatcher.is_stopping = True
            running = self._board.jobs("running")
            for job in running:
                self._dispatcher.stop_job(job, "the pool was stopped")
            if not running:
                self._mlflow.stop()
                self._slots.close()
                if not self._board.jobs("queued") and not self._board.jobs("trained"):
                    credentials.remove(self._board.settings.dir)
            return len(running)

    def _keep(self, settings: PoolSettings, is_draining: bool, at: float) -> None:
        content = masked_values(settings.model_dump(mode="json"))
        self._journal.keep_settings({"settings": content, "is_draining": is_draining}, at)

    def _view(self, job: JobRecord) -> dict[str, Any]:
        """The fields of a :class:`~cluster.pool.job.Job`."""
        internal = ("failures", "failed_at", "process")
        together = [other.id for other in self._board.in_process(job.process) if other.id != job.id]
        return {key: value for key, value in vars(job).items() if key not in internal} | {
            "folder": str(self._board.folder(job)),
            "together_with": together,
            "waits_for": self._dispatcher.waits_for(job) if job.state == "queued" else None,
        }

    def _history(self, entry: Transition) -> HistoryEntry:
        others = [job for job in self._journal.shared(entry.process or "") if job != entry.job]
        reason = f"together with {', '.join(others)}" if others else entry.reason
        return HistoryEntry(entry.time, entry.state, reason)


def _by(what: str, who: str) -> str:
    return f"{what} by {who}".strip() if who else what


def _last_events(log: Path) -> list[LoggedEvent]:
    """The events at the end of a log; a line that is cut is none."""
    size = log.stat().st_size if log.is_file() else 0
    return events_from(log, max(0, size - EVENT_BYTES))[0]


def _last_lines(log: Path) -> list[str]:
    """The last lines of a log, which may be of any size."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        end = file.read(LOG_BYTES)
    return end.decode(errors="replace").splitlines()[-LAST_LINES:]
