"""A pretraining run as its user sees it: events of the run turned into progress and lines."""

from __future__ import annotations

import time
from typing import Any

from cluster.runs.events import Event
from cluster.settings import PretrainSettings
from launcher.terminal.progress import Progress

LINES: dict[str, str] = {
    Event.STARTED: "started fresh",
    Event.TRACKING_AWAY: "MLflow does not answer; metrics wait on disk",
    Event.TRACKING_BACK: "MLflow answers again and has everything",
    Event.TRACKING_BEHIND: "MLflow lacks some metrics; later: odeformer track sync",
    Event.NOT_REGISTERED: "the registry does not answer",
    Event.SKIPPED: "left out a step that is not finite or a spike",
    Event.SPIKE: "a loss far above the recent ones",
    Event.ROLLBACK: "back to the last checkpoint, on with the samples that follow",
    Event.CHECKPOINT_DAMAGED: "a checkpoint is damaged, and left out",
    Event.CHECKPOINT_FAILED: "a checkpoint could not be written",
    Event.CHECKPOINT_FETCHED: "a checkpoint was fetched",
    Event.MIRROR_AWAY: "checkpoint.mirror cannot be reached, tried again with the next checkpoint",
    Event.CHECKPOINT_CONVERTED: "a checkpoint of other workers was converted",
    Event.WAITING: "waits for room",
    Event.RESIZED: "another number of workers",
    Event.GROWING: "there is room for more workers: the step is finished and committed",
    Event.LEAVING: "a node is about to go: the step is finished and committed",
}
"""What is said of an event that is nothing but its name."""


class PretrainWatcher:
    """Shows each event of a run; remembers the validation losses for whoever sums it up."""

    def __init__(self, settings: PretrainSettings, progress: Progress) -> None:
        self._steps = settings.train.steps
        self._depth = settings.model.depth
        self._progress = progress
        self._first: tuple[int, float] | None = None
        self.validations: list[dict[int, float]] = []
        """Loss in nats per token by depth, one dictionary for each validation."""
        workers = settings.cluster.workers
        progress.update(0, f"starting Ray and {workers} worker{'s' if workers > 1 else ''}")

    def __call__(self, event: dict[str, Any]) -> None:
        """Take an event of the run."""
        if event["event"] == Event.STEP:
            self._step(event)
        elif event["event"] == Event.VALIDATION:
            losses = {
                int(k.rsplit("_", 1)[1]): v for k, v in event.items() if k.startswith("validation_loss_")
            }
            self.validations.append(losses)
            shown = " · ".join(f"N={depth} {loss:.3f}" for depth, loss in losses.items())
            self._progress.console.print(
                f"  step {event['step']:>5}  validation loss  {shown}", highlight=False, soft_wrap=True
            )
        elif event["event"] == Event.RESUMED:
            self._progress.console.print(f"  resumed from step {event['step']}", highlight=False)
        elif event["event"] == Event.RESTARTING:
            self._restarting(event)
        elif event["event"] in LINES:
            reason = f" ({event['reason']})" if "reason" in event else ""
            step = (
                f"step {event['step']:>5}  "
                if event["event"] in (Event.SKIPPED, Event.SPIKE, Event.ROLLBACK)
                else ""
            )
            if event["event"] == Event.WAITING:
                self._progress.update(event["step"] / self._steps, "waiting for room")
            self._progress.console.print(
                f"  {step}{LINES[event['event']]}{reason}", highlight=False, markup=False, soft_wrap=True
            )

    def _restarting(self, event: dict[str, Any]) -> None:
        restart = event["restart"]
        kind = "preemptions" if restart["preemption"] else "failures without progress"
        self._progress.console.print(
            f"  {event['reason']}; starting again from step {event['step']} in {restart['pause']:.0f} s "
            f"({restart['left']} more {kind} allowed)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def _step(self, event: dict[str, Any]) -> None:
        step, now = event["step"], time.monotonic()
        self._first = self._first or (step - 1, now)
        done = max(1, step - self._first[0])
        left = (now - self._first[1]) / done * (self._steps - step)
        self._progress.update(
            step / self._steps,
            f"step {step}/{self._steps} · loss {event['loss']:.3f} · N={event['depth']} · "
            f"{event['tokens_per_second']:,.0f} tokens/s · {left:.0f} s left",
        )
