"""Progress of a pretraining run in the terminal, made from the run's events."""

from __future__ import annotations

from cluster.runs.events import Event, LoggedEvent
from cluster.runs.goodput import account_of
from cluster.runs.pace import Pace
from cluster.settings import PretrainSettings
from launcher.terminal.durations import in_words
from launcher.terminal.goodput import goodput_lines
from launcher.terminal.progress import Progress

LINES: dict[str, str] = {
    Event.STARTED: "started fresh",
    Event.TRACKING_AWAY: "MLflow is unreachable; metrics are kept on disk",
    Event.TRACKING_BACK: "MLflow is reachable again; all metrics are uploaded",
    Event.TRACKING_BEHIND: "MLflow lacks some metrics; upload them later: odeformer track sync",
    Event.NOT_REGISTERED: "the registry is unreachable",
    Event.NEW_PART: "the mixture of sources has changed",
    Event.SKIPPED: "skipped the update: a loss that is not finite, or a spike",
    Event.SPIKE: "a loss far above the recent ones",
    Event.ROLLBACK: "rolled back to the last checkpoint, continuing with the next samples",
    Event.CHECKPOINT_DAMAGED: "ignored a damaged checkpoint",
    Event.CHECKPOINT_FAILED: "a checkpoint could not be written",
    Event.CHECKPOINT_FETCHED: "fetched a checkpoint from the mirror",
    Event.MIRROR_AWAY: "checkpoint.mirror is unreachable; retrying with the next checkpoint",
    Event.SCORING_REPEATED: "scoring of a checkpoint is repeated",
    Event.NOT_SCORED: "a checkpoint has no scores",
    Event.SCORES_WAIT: "trained; scoring the checkpoints that still wait",
    Event.CHECKPOINT_CONVERTED: "converted a checkpoint to this number of workers",
    Event.WAITING: "waiting for free resources",
    Event.RESIZED: "the number of workers changed",
    Event.GROWING: "more workers fit now: committing this step, then growing",
    Event.UNWRITABLE: "run.dir cannot be written for now; what the workers report waits in memory",
    Event.LEAVING: "a node is about to leave: committing this step",
    Event.SLOW: "the others wait for a slow worker",
    Event.CORRUPTED: "silent data corruption",
}
"""The line for each event that needs no more than its name and reason."""
WITH_STEP = (Event.SKIPPED, Event.SPIKE, Event.ROLLBACK, Event.SCORING_REPEATED, Event.NOT_SCORED)


class PretrainWatcher:
    """Shows each event of a run and keeps the validation losses."""

    def __init__(self, settings: PretrainSettings, progress: Progress) -> None:
        self._steps, self._run, self._checkpoint = settings.train.steps, settings.run.dir, settings.checkpoint
        self._progress = progress
        self._pace = Pace()
        self.validations: list[dict[int, float]] = []
        """Loss in nats per token by depth, one dictionary per validation."""
        workers = settings.cluster.workers
        progress.update(0, f"starting Ray and {workers} worker{'s' if workers > 1 else ''}")

    def __call__(self, event: LoggedEvent) -> None:
        """Show one event of the run."""
        name = event["event"]
        self._pace.add(event)
        if name == Event.STEP:
            self._step(event)
        elif name == Event.VALIDATION:
            self._validation(event)
        elif name == Event.SCORED:
            self._scored(event)
        elif name == Event.RESUMED:
            self._resumed(event)
        elif name == Event.RESTARTING:
            self._restarting(event)
        elif name == Event.GOODPUT:
            for line in goodput_lines(account_of(self._run), self._checkpoint):
                self._print(line)
        elif name in LINES:
            if name == Event.WAITING:
                self._progress.update(event["step"] / self._steps, LINES[name])
            step = f"step {event['step']:>5}  " if name in WITH_STEP else ""
            reason = f" ({event['reason']})" if "reason" in event else ""
            self._print(f"{step}{LINES[name]}{reason}")

    def _print(self, line: str) -> None:
        self._progress.console.print(f"  {line}", soft_wrap=True)

    def _resumed(self, event: LoggedEvent) -> None:
        step = event["step"]
        self._print(f"resumed from step {step} ({event['reason']})")
        if step >= self._steps:
            self._print(f"nothing to train: train.steps is {self._steps}, and step {step} is committed")

    def _step(self, event: LoggedEvent) -> None:
        step = event["step"]
        left = in_words(self._pace.left(self._steps))
        self._progress.update(
            step / self._steps,
            f"step {step}/{self._steps} · loss {event['loss']:.3f} · N={event['depth']} · "
            f"{event['tokens_per_second']:,.0f} tokens/s" + (f" · {left}" if left else ""),
        )

    def _validation(self, event: LoggedEvent) -> None:
        prefix = "validation_loss_"
        losses = {int(k.removeprefix(prefix)): v for k, v in event.items() if k.startswith(prefix)}
        self.validations.append(losses)
        shown = " · ".join(f"N={depth} {loss:.3f}" for depth, loss in losses.items())
        self._print(f"step {event['step']:>5}  validation loss  {shown}")

    def _scored(self, event: LoggedEvent) -> None:
        shown = " · ".join(f"{name} {value:.4g}" for name, value in event.items() if "/" in name)
        self._print(f"step {event['step']:>5}  scores  {shown or 'samples only'}")

    def _restarting(self, event: LoggedEvent) -> None:
        restart = event["restart"]
        kind = "preemptions" if restart["preemption"] else "failures without progress"
        self._print(
            f"{event['reason']}; restarting from step {event['step']} in {restart['pause']:.0f} s "
            f"({restart['left']} more {kind} allowed)"
        )
