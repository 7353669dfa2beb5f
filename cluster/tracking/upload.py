"""From a run's event log to MLflow: nothing waits for it, nothing is lost, nothing is there twice.

The log on disk is the spool. What goes to MLflow is a function of the log alone – the first value that it has
of each metric at each step, with the log's own times – and MLflow holds equal rows once. So sending may break
off anywhere, and be repeated from anywhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.runs.events import FILE_NAME, EventLog, events_from
from cluster.runs.failures import PreemptedError
from cluster.tracking import runs, store
from cluster.tracking.runs import Row

logger = logging.getLogger(__name__)

SENT_FILE = "mlflow-sent.json"
NODES = "nodes"
"""The folder of the logs that nodes keep of themselves."""
ARTIFACTS = ("deepspeed.json",)
"""Files of the folder that are sent as they are, and again when they change."""
BYTES_AT_ONCE = 2**18
EVERY_SECONDS = 1.0
LONGEST_PAUSE = 30.0
FINISH_SECONDS = 10.0
"""How long the end of a run waits for MLflow to have everything."""

STATUS = {
    "started": "RUNNING",
    "resumed": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "preempted": "KILLED",
}
"""What an event makes of the MLflow run."""


class Uploader:
    """Sends a folder's logs to its MLflow run, from where the last one stopped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._client: Any = None
        self._run_id = ""
        self._sent: dict[str, dict[str, Any]] = {}
        self._artifacts: dict[str, str] = {}

    def send(self) -> bool:
        """Send a piece of what is new; whether more is waiting.

        Raises:
            ConnectionError: when the store cannot be reached.
        """
        if self._client is None:
            self._open()
        waiting = [self._send_piece(path) for path in self._logs()]
        for name in ARTIFACTS:
            self._send_artifact(name)
        return any(waiting)

    def _open(self) -> None:
        self._run_id = runs.open_run(self._folder)
        self._sent, self._artifacts = {}, {}
        path = self._folder / SENT_FILE
        if path.is_file():
            known = json.loads(path.read_text())
            if known["run_id"] == self._run_id:
                self._sent, self._artifacts = known["logs"], known.get("artifacts", {})
        self._client = store.connect(runs.run_uri(self._folder))

    def _logs(self) -> list[Path]:
        return [self._folder / FILE_NAME, *sorted((self._folder / NODES).glob("*.jsonl"))]

    def _send_artifact(self, name: str) -> None:
        path = self._folder / name
        content = path.read_bytes() if path.exists() else b""
        digest = hashlib.sha256(content).hexdigest()
        if not content or self._artifacts.get(name) == digest:
            return
        with store.answering(runs.run_uri(self._folder)):
            self._client.log_artifact(self._run_id, str(path))
        self._artifacts[name] = digest
        self._note()

    def _send_piece(self, path: Path) -> bool:
        name = str(path.relative_to(self._folder))
        sent = self._sent.get(name, {"offset": 0, "steps": {}})
        size = path.stat().st_size if path.exists() else 0
        # A log that has lost its end with the machine is read again; the steps say what is known of it.
        offset = sent["offset"] if sent["offset"] <= size else 0
        events, end = events_from(path, offset, BYTES_AT_ONCE)
        if end == sent["offset"]:
            return False
        rows, steps = new_rows(events, sent["steps"])
        statuses = [STATUS[event["event"]] for event in events if event.get("event") in STATUS]
        with store.answering(runs.run_uri(self._folder)):
            runs.send_rows(self._client, self._run_id, rows)
            if statuses:
                if statuses[-1] == "RUNNING":
                    self._client.update_run(self._run_id, status="RUNNING")
                else:
                    self._client.set_terminated(self._run_id, statuses[-1])
        self._sent[name] = {"offset": end, "steps": steps}
        self._note()
        return end < size

    def _note(self) -> None:
        content = {"run_id": self._run_id, "logs": self._sent, "artifacts": self._artifacts}
        runs.write_json(self._folder / SENT_FILE, content)


def new_rows(events: list[dict[str, Any]], steps: dict[str, int]) -> tuple[list[Row], dict[str, int]]:
    """The rows that events add to a run which has each metric up to ``steps[metric]``; and the new steps.

    A step that was computed again after a restart adds nothing: a curve has one value for each step.
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
    """Send everything that a run's logs have and MLflow lacks.

    Raises:
        FileNotFoundError: when no run was ever begun there.
        ConnectionError: when that has not been possible for so many seconds.
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
    """Rank 0's reports: each goes to the run's event log at once, and to MLflow from a thread.

    At the end of its ``with`` block MLflow gets a bounded time to take what it has not yet; the rest stays
    in the log, for the next start or ``odeformer track sync``.
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
        """Report what happened at an optimizer step; numbers become metrics of the same names."""
        self._step = step
        self._log(event, step, values)

    def __enter__(self) -> Tracker:
        # Of the whole process: a thread cannot change its environment for itself alone.
        self._patience.__enter__()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self("finished", self._step, {})
        self._ended.set()
        self._thread.join(FINISH_SECONDS if kind is None else FINISH_SECONDS / 2)
        if self._thread.is_alive():
            self("tracking_behind", self._step, {})
        self._patience.__exit__(None, None, None)

    def _send_until_ended(self) -> None:
        pause, away = EVERY_SECONDS, False
        while True:
            ending = self._ended.wait(pause)
            try:
                while self._uploader.send():
                    pass
                if away:
                    self._log("tracking_back", self._step, {})
                pause, away = EVERY_SECONDS, False
                if ending:
                    return
            except Exception as error:  # noqa: BLE001 - what is trained is worth more than its curves
                if not away:
                    logger.warning("metrics stay in %s for now: %s", FILE_NAME, error)
                    self._log("tracking_away", self._step, {})
                away, pause = True, min(2 * pause, LONGEST_PAUSE)
                if ending:
                    time.sleep(1.0)


@contextmanager
def ended(folder: Path) -> Iterator[None]:
    """When the block raises, say so in the event log, and so in MLflow: failed, interrupted or preempted."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, PreemptedError):
            EventLog(folder)("preempted", error.step, {})
        else:
            EventLog(folder)("failed" if isinstance(error, Exception) else "interrupted", 0, {})
        with suppress(Exception):  # a store that is gone must not hide what the run died of
            sync(folder, seconds=FINISH_SECONDS / 2)
        raise
