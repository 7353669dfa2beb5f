"""Event logs of runs that were never made, and the truth of where their time went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster.runs.events import Event
from cluster.runs.goodput import PARTS

MORE = {"depth": 4, "tokens": 512, "tokens_per_second": 100.0}
"""What else a step says."""


class Log:
    """Events as a run logs them, and the truth beside them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.events: list[dict[str, Any]] = []
        self.truth = dict.fromkeys(PARTS, 0.0)
        self.kept: list[tuple[int, float, float]] = []

    def loss(self, step: int) -> float:
        """The loss of a step."""
        return 2.0 + 4.0 / step

    def write(self, folder: Path, **settings: Any) -> Path:
        """Leave the log and a record of the run in a folder."""
        folder.mkdir(parents=True)
        lines = [json.dumps(event) + "\n" for event in self.events]
        (folder / "events.jsonl").write_text("".join(lines))
        record = {"tracking_uri": "sqlite:///x.db", "settings": {"train": {"steps": 40}, **settings}}
        (folder / "mlflow.json").write_text(json.dumps(record))
        return folder

    def spend(self, part: str, seconds: float) -> None:
        self.now += seconds
        self.truth[part] += seconds

    def say(self, event: Event, step: int = 0, **fields: Any) -> None:
        self.events.append({"time": self.now, "event": event, "step": step, **fields})

    def start(self, step: int = 0, seconds: float = 20.0) -> None:
        self.spend("restart", 1.0)
        self.say(Event.PLACED, workers=2)
        self.spend("restart", seconds - 1)
        self.say(Event.RESUMED if step else Event.STARTED, step, workers=2, reason="")
        for made, train, data in [kept for kept in self.kept if kept[0] > step]:
            self.truth["train"] -= train
            self.truth["data"] -= data
            self.truth["repeat"] += train + data
            self.kept.remove((made, train, data))

    def step(self, step: int, train: float = 1.0, data: float = 0.25) -> None:
        self.spend("train", train)
        self.spend("data", data)
        self.kept.append((step, train, data))
        self.say(Event.STEP, step, loss=self.loss(step), step_seconds=train + data, data_seconds=data, **MORE)

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            self.step(step)

    def commit(self, step: int, between: float = 0.5, in_step: float = 0.25) -> None:
        """A commit that holds up the loop before the next step, and within it."""
        self.spend("checkpoint", between)
        self.spend("train", 1.0)
        self.spend("checkpoint", in_step)
        self.kept.append((step + 1, 1.0, 0.0))
        self.say(Event.STEP, step + 1, loss=self.loss(step + 1), step_seconds=1.0 + in_step, **MORE)
        self.say(Event.CHECKPOINT, step, checkpoint_seconds=3.0, blocked_seconds=between + in_step)

    def fail(self, lost: float, is_preemption: bool = False) -> None:
        self.spend("restart", lost)
        restart = {"pause": 1.0, "left": 1, "preemption": is_preemption, "cause": "failure"}
        self.say(Event.RESTARTING, reason="worker 1: its process died", restart=restart)


def troubled() -> Log:
    """A run with three kills: of a worker, of the command, and of a worker of a waiting run."""
    log = Log()
    log.say(Event.LAUNCHED)
    log.start()
    log.spend("validation", 3.0)
    log.say(Event.VALIDATION, validation_loss_4=3.0)
    log.steps(1, 10)
    log.commit(10)
    log.steps(12, 14)
    log.fail(lost=4.0)
    log.start(step=10)
    log.steps(11, 20)
    log.commit(20)
    log.step(22)
    log.spend("restart", 30.0)  # the command was killed, and is started again
    log.say(Event.LAUNCHED)
    log.start(step=20)
    log.steps(21, 24)
    log.fail(lost=2.0)
    log.spend("restart", 1.0)
    log.say(Event.WAITING, reason="no room")
    log.spend("wait", 40.0)
    log.say(Event.WAITING, reason="less room")
    log.spend("wait", 20.0)
    log.truth["wait"], log.truth["restart"] = log.truth["wait"] + 1.0, log.truth["restart"] - 1.0
    log.start(step=20)  # of its first second it is not known that the wait was over
    log.steps(21, 30)
    log.spend("checkpoint", 2.5)
    log.say(Event.CHECKPOINT, 30, checkpoint_seconds=2.0, blocked_seconds=0.25)
    log.say(Event.FINISHED, 30)
    return log
