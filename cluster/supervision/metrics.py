"""What a run says of itself to Ray's metrics, which Prometheus reads from every node.

The command that supervises the run records them from the run's events. Each has the label ``run``, the name
of the run's folder, of which a process has one; other labels have few values. Ray forgets a gauge that is not
set again and again, so the last values are kept here.
"""

from __future__ import annotations

import time
from typing import get_args

from ray.util import metrics

from cluster.runs.events import Cause, Event, LoggedEvent
from cluster.runs.goodput import Account
from cluster.runs.pace import TimeLeft

Labels = tuple[tuple[str, str], ...]
EVERY_SECONDS = 2.0


class RunMetrics:
    """The run's metrics by Ray's names; Prometheus sees them with ``ray_`` in front.

    Args:
        run: name of the run's folder.
        steps: number of steps of the whole run.
    """

    def __init__(self, run: str, steps: int) -> None:
        self._run = {"run": run}
        self._refreshed = 0.0
        labels = ("run",)
        self._of_step = {
            "step": metrics.Gauge("odeformer_run_step", "Optimizer steps made.", labels),
            "loss": metrics.Gauge("odeformer_run_loss", "Loss of a step in nats per token.", labels),
            "tokens": metrics.Gauge("odeformer_run_tokens", "Tokens trained on since the beginning.", labels),
            "tokens_per_second": metrics.Gauge(
                "odeformer_run_tokens_per_second", "Tokens per second in a step, of all workers.", labels
            ),
            "mfu": metrics.Gauge(
                "odeformer_run_mfu", "Model FLOPs utilization of a step, where the peak is known.", labels
            ),
            "model_flops_per_second": metrics.Gauge(
                "odeformer_run_model_flops_per_second",
                "Model FLOPs per second in a step, where the peak is not known.",
                labels,
            ),
        }
        self._steps = metrics.Gauge("odeformer_run_steps", "Optimizer steps of the whole run.", labels)
        self._values: dict[tuple[metrics.Gauge, Labels], float] = {(self._steps, ()): steps}
        self._workers = metrics.Gauge("odeformer_run_workers", "Workers of the current group.", labels)
        self._goodput = metrics.Gauge(
            "odeformer_run_goodput", "Fraction of the time spent on steps whose result was kept.", labels
        )
        self._seconds = metrics.Gauge(
            "odeformer_run_seconds",
            "Seconds of the run by what they went to, over all restarts.",
            (*labels, "part"),
        )
        self._left = metrics.Gauge(
            "odeformer_run_seconds_left",
            "Seconds until the last step: the estimate, and the ends of its 90 % interval.",
            (*labels, "bound"),
        )
        # Gauges, since Prometheus does not see a counter's first count, with which its series would begin.
        self._restarts = metrics.Gauge(
            "odeformer_run_restarts",
            "Restarts of the workers by what made them necessary.",
            (*labels, "cause"),
        )
        self._slow = metrics.Gauge(
            "odeformer_run_slow_workers", "Workers that were found to be slower than the others.", labels
        )
        self._values[self._slow, ()] = 0
        self._values.update({(self._restarts, (("cause", cause),)): 0 for cause in get_args(Cause)})

    def take(self, event: LoggedEvent, left: TimeLeft | None) -> None:
        """Take note of an event, and of the time left after it."""
        name = event["event"]
        if name == Event.STEP:
            for key, gauge in self._of_step.items():
                if key in event:
                    self._values[gauge, ()] = event[key]
        elif name == Event.PLACED:
            self._values[self._workers, ()] = event["workers"]
        elif name == Event.SLOW:
            self._values[self._slow, ()] += 1
        elif name == Event.RESTARTING:
            self._values[self._restarts, (("cause", event["restart"]["cause"]),)] += 1
        if left is not None:
            bounds = {"low": left.low, "estimate": left.seconds, "high": left.high}
            for bound, seconds in bounds.items():
                self._values[self._left, (("bound", bound),)] = seconds

    def refresh(self, account: Account) -> None:
        """Set the gauges again, with the time as it is spent now; every few seconds."""
        ticks = time.monotonic()
        if ticks - self._refreshed < EVERY_SECONDS:
            return
        self._refreshed = ticks
        seconds = account.seconds_at(time.time())
        for part, value in seconds.items():
            self._values[self._seconds, (("part", part),)] = value
        if wall := sum(seconds.values()):
            self._values[self._goodput, ()] = seconds["train"] / wall
        for (gauge, labels), value in self._values.items():
            gauge.set(value, {**self._run, **dict(labels)})
