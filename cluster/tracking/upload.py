"""Upload of a run's event log to MLflow: asynchronous, without loss and without duplicates.

The log on disk is the spool. What is sent is a function of the log alone: the first value of each metric at
each step, with the time in the log. As MLflow stores equal rows only once, sending is idempotent, and may be
interrupted and repeated anywhere.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.runs.events import FILE_NAME, Event, EventLog, LoggedEvent, events_from
from cluster.runs.failures import PreemptedError
from cluster.tracking import logged_models, runs, store
from cluster.tracking.runs import Row
from odeformer.files.digest import file_digest
from odeformer.files.errors import reason

logger = logging.getLogger(__name__)

SENT_FILE = "mlflow-sent.json"
NODES = "nodes"
"""Folder of the nodes' logs."""
SAMPLES = "samples.json"
"""Table of the continuations of prompts by scored checkpoints."""
ARTIFACTS = ("deepspeed.json", "mixture.json", "stacks.txt", "traces/steps-*", SAMPLES)
"""Patterns of the files that are sent as artifacts, and again when they change."""
TABLES = ("mlflow.loggedArtifacts", json.dumps([{"path": SAMPLES, "type": "table"}]))
"""MLflow's own tag of the tables that its page of a run shows."""
BYTES_AT_ONCE = 2**18
EVERY_SECONDS = 1.0
LONGEST_PAUSE = 30.0
FINISH_SECONDS = 10.0
"""Seconds that the end of a run waits for MLflow to receive everything."""

STATUS: dict[str, str] = {
    Event.STARTED: "RUNNING",
    Event.RESUMED: "RUNNING",
    Event.FINISHED: "FINISHED",
    Event.FAILED: "FAILED",
    Event.INTERRUPTED: "KILLED",
    Event.PREEMPTED: "KILLED",
}
"""Status of the MLflow run after an event."""


class Uploader:
    """Sends a folder's logs to its MLflow run, continuing where the previous uploader stopped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._client: Any = None
        self._run_id = ""
        self._sent: dict[str, dict[str, Any]] = {}
        self._artifacts: dict[str, str] = {}
        self._looked: dict[str, tuple[int, int]] = {}
        """Size and time of change of the artifacts as they were last looked at."""

    def send(self) -> bool:
        """Send the next part of the logs; returns whether there is more.

        Raises:
            ConnectionError: when the store cannot be reached.
        """
        if self._client is None:
            self._open()
        waiting = [self._send_piece(path) for path in self._logs()]
        for pattern in ARTIFACTS:
            for path in sorted(self._folder.glob(pattern)):
                self._send_artifact(path)
        return any(waiting)

    def _open(self) -> None:
        self._run_id = runs.open_run(self._folder)
        self._sent, self._artifacts = {}, {}
        path = self._folder / SENT_FILE
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["run_id"] == self._run_id:
                self._sent, self._artifacts = record["logs"], record.get("artifacts", {})
        self._client = store.connect(runs.run_uri(self._folder))

    def _logs(self) -> list[Path]:
        return [self._folder / FILE_NAME, *sorted((self._folder / NODES).glob("*.jsonl"))]

    def _send_artifact(self, path: Path) -> None:
        name, status = str(path.relative_to(self._folder)), path.stat()
        version = (status.st_size, status.st_mtime_ns)
        if not status.st_size or self._looked.get(name) == version:
            return
        digest = file_digest(path)
        if self._artifacts.get(name) != digest:
            folder = path.parent.relative_to(self._folder)
            with store.answering(runs.run_uri(self._folder)):
                self._client.log_artifact(self._run_id, str(path), None if folder == Path() else str(folder))
                if name == SAMPLES:
                    self._client.set_tag(self._run_id, *TABLES)
            self._artifacts[name] = digest
            self._note()
        self._looked[name] = version

    def _send_piece(self, path: Path) -> bool:
        name = str(path.relative_to(self._folder))
        sent = self._sent.get(name, {"offset": 0, "steps": {}})
        size = path.stat().st_size if path.exists() else 0
        # A log that lost its end in a crash is read again; the recorded steps prevent duplicates.
        offset = sent["offset"] if sent["offset"] <= size else 0
        events, end = events_from(path, offset, BYTES_AT_ONCE)
        if end == sent["offset"]:
            return False
        rows, steps = new_rows(events, sent["steps"])
        scored = {event["step"] for event in events if event.get("event") == Event.SCORED}
        statuses = [STATUS[event["event"]] for event in events if event.get("event") in STATUS]
        with store.answering(runs.run_uri(self._folder)):
            if scored:
                rows = self._with_models(rows, scored)
            runs.send_rows(self._client, self._run_id, rows)
            if statuses:
                runs.set_status(self._client, self._run_id, statuses[-1])
        self._sent[name] = {"offset": end, "steps": steps}
        self._note()
        return end < size

    def _with_models(self, rows: list[Row], steps: set[int]) -> list[Row]:
        """The rows of metrics, those of scores with the logged models of their steps."""
        with store.locked(self._folder / runs.RUN_FILE):
            models = {step: logged_models.model_of_step(self._client, self._run_id, step) for step in steps}
        # Only names of scores have a task or a text before them.
        return [row._replace(model=models.get(row.step)) if "/" in row.key else row for row in rows]

    def _note(self) -> None:
        content = {"run_id": self._run_id, "logs": self._sent, "artifacts": self._artifacts}
        runs.write_json(self._folder / SENT_FILE, content)


def new_rows(events: list[LoggedEvent], steps: dict[str, int]) -> tuple[list[Row], dict[str, int]]:
    """Metrics of events, for a run that has each metric up to ``steps[metric]`` already.

    Steps that are repeated after a restart add nothing, so that a curve has one value per step.

    Returns:
        The rows, and the updated ``steps``.
    """
    rows, steps = [], dict(steps)
    for event in events:
        for key, value in event.items():
            if key in ("time", "event", "step") or not isinstance(value, int | float):
                continue
            if event["step"] > steps.get(key, -1):
                steps[key] = event["step"]
                rows.append(Row(key, float(value), int(event["time"] * 1000), event["step"]))
    return rows, steps


def sync(folder: Path, seconds: float = FINISH_SECONDS) -> None:
    """Send everything that MLflow lacks of a run's logs.

    Raises:
        FileNotFoundError: when no run was started there.
        ConnectionError: when the store could not be reached within ``seconds``.
    """
    uploader, deadline, pause = Uploader(folder), time.monotonic() + seconds, 0.5
    with store.patience():
        while True:
            try:
                while uploader.send():
                    deadline = max(deadline, time.monotonic() + seconds / 2)
                return
            except ConnectionError:
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


class Tracker:
    """Writes rank 0's reports to the run's event log, and sends them to MLflow from a thread.

    The end of the ``with`` block waits a limited time for MLflow. What it lacks then stays in the log, for
    the next start or ``odeformer track sync``.
    """

    def __init__(self, folder: Path) -> None:
        store.import_client()
        self._log = EventLog(folder)
        self._uploader = Uploader(folder)
        self._ended = threading.Event()
        self._step = 0
        self._thread = threading.Thread(target=self._send_until_ended, daemon=True)
        self._patience = store.patience()

    def __call__(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Report an event at an optimizer step. Numbers become metrics of the same names."""
        self._step = step
        self._log(event, step, values)

    def __enter__(self) -> Tracker:
        # For the whole process, as threads share their environment.
        self._patience.__enter__()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self(Event.FINISHED, self._step, {})
        self._ended.set()
        self._thread.join(FINISH_SECONDS if kind is None else FINISH_SECONDS / 2)
        if self._thread.is_alive():
            self(Event.TRACKING_BEHIND, self._step, {})
        self._patience.__exit__(None, None, None)

    def _send_until_ended(self) -> None:
        pause, away = EVERY_SECONDS, False
        while True:
            ending = self._ended.wait(pause)
            try:
                while self._uploader.send():
                    pass
                if away:
                    self._log(Event.TRACKING_BACK, self._step, {})
                pause, away = EVERY_SECONDS, False
                if ending:
                    return
            except Exception as error:  # noqa: BLE001 - training must not fail for its metrics
                if not away:
                    logger.warning("metrics stay in %s for now: %s", FILE_NAME, error)
                    self._log(Event.TRACKING_AWAY, self._step, {"reason": reason(error)})
                away, pause = True, min(2 * pause, LONGEST_PAUSE)
                if ending:
                    time.sleep(1.0)


@contextmanager
def ended(folder: Path) -> Iterator[None]:
    """Log, also to MLflow, how the block ends if it raises: failed, interrupted or preempted."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, PreemptedError):
            EventLog(folder)(Event.PREEMPTED, error.step, {})
        else:
            EventLog(folder)(Event.FAILED if isinstance(error, Exception) else Event.INTERRUPTED, 0, {})
        with suppress(Exception):  # an unreachable store must not hide the error of the run
            sync(folder, seconds=FINISH_SECONDS / 2)
        raise
