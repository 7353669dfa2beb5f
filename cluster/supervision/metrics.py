"""What a run says of itself to Ray's metrics, which Prometheus reads from every node.

The command that supervises the run records them from the run's events. Each has the label ``run``, the name
of the run's folder, of which a process has one; other labels have few values.
"""

from __future__ import annotations

from ray.util import metrics

from cluster.runs.events import Event, LoggedEvent
from cluster.runs.goodput import Account
from cluster.runs.pace import TimeLeft


class RunMetrics:
    """The run's metrics by Ray's names; Prometheus sees them with ``ray_`` in front.

    Args:
        run: name of the run's folder.
    """

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
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
        self._restarts = metrics.Counter(
            "odeformer_run_restarts",
            "Restarts of the workers by what made them necessary.",
            (*labels, "cause"),
        )
        self._slow = metrics.Counter(
            "odeformer_run_slow_workers", "Workers that were found to be slower than the others.", labels
        )

    def take(self, event: LoggedEvent, account: Account, steps: int, left: TimeLeft | None) -> None:
        """Take note of an event, and of the run as it is after it.

        Args:
            steps: number of steps of the whole run.
        """
        name = event["event"]
        if name == Event.STEP:
            for key, gauge in self._of_step.items():
                if key in event:
                    gauge.set(event[key], self._run)
        elif name == Event.PLACED:
            self._workers.set(event["workers"], self._run)
        elif name == Event.SLOW:
            self._slow.inc(1, self._run)
        elif name == Event.RESTARTING:
            self._restarts.inc(1, {**self._run, "cause": event["restart"]["cause"]})
        self._steps.set(steps, self._run)
        self._goodput.set(account.goodput, self._run)
        for part, seconds in account.seconds.items():
            self._seconds.set(seconds, {**self._run, "part": part})
        if left is not None:
            bounds = {"low": left.low, "estimate": left.seconds, "high": left.high}
            for bound, seconds in bounds.items():
                self._left.set(seconds, {**self._run, "bound": bound})
