"""Guards of a run: bad steps are skipped, and too many of them in a row cause a rollback to a commit.

A step is bad when its loss or its gradient is not finite, or when its loss is a spike and
``guard.on_spike`` is ``skip``. It consumes its samples and its step number. After ``guard.max_skipped`` bad
steps in a row the weights are rolled back to the last commit, but the data is not: the samples since that
commit, including the bad ones, are skipped, so that the run does not repeat itself.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import distributed as dist

from cluster.checkpoints.commit import Checkpoints, Cursor
from cluster.checkpoints.durable import on_rank_0, together
from cluster.runs.events import Event
from cluster.settings import GuardSettings
from cluster.training import zero
from odeformer.files.atomic import new_file

MAD_TO_DEVIATION = 1.4826
"""Standard deviation over median absolute deviation, for a normal distribution."""
WHAT_TO_DO = "lower optim.learning_rate, or look at the samples that events.jsonl says were skipped"


class StepResult(NamedTuple):
    """Result of an optimizer step, the same on all ranks except for ``bad_samples``."""

    loss: float
    """Mean loss in nats per token before the step, over all ranks, at the first depth."""
    tokens: int
    gradient_norm: float
    """Gradient norm before clipping; not finite if and only if the step was skipped."""
    bad_samples: list[int]
    """Ids of this rank's samples with a loss that is not finite."""
    must_stop: bool = False
    """Whether some rank was preempted or cancelled."""
    source_losses: Mapping[str, float] = MappingProxyType({})
    """Mean loss in nats per token of the samples of each source, by its name, at the first depth."""

    @property
    def applied(self) -> bool:
        return math.isfinite(self.gradient_norm)


class GuardError(RuntimeError):
    """A run keeps failing after rollbacks; a restart with the same settings would not help."""


class Guards:
    """Decides after each step whether it was bad. All ranks reach the same decision, from the same values.

    Its state, which includes that of the stream, is stored in every commit besides the weights.
    """

    def __init__(
        self,
        settings: GuardSettings,
        stream: Cursor,
        folder: Path,
        report: Callable[[str, int, dict[str, Any]], object],
    ) -> None:
        """Read the journal of skipped samples in ``folder``, the run's."""
        self._settings, self._stream, self._report = settings, stream, report
        self._journal = folder / "passed_over.json"
        self._recent: deque[float] = deque(maxlen=settings.spike_window)
        self._in_a_row = 0
        self.tokens = 0
        """Tokens of all workers that the weights have been trained on, in applied steps."""
        # By step of a commit: the position in the data at which each rollback to it continued.
        self._passed_over: dict[str, list[int]] = on_rank_0(
            lambda: json.loads(self._journal.read_text(encoding="utf-8")) if self._journal.exists() else {}
        )

    def state_dict(self) -> dict[str, Any]:
        """Position of the stream, tokens and recent losses: a resumed run decides as if uninterrupted."""
        guard = {"losses": list(self._recent), "in_a_row": self._in_a_row}
        return {**self._stream.state_dict(), "guard": guard, "tokens": self.tokens}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._stream.load_state_dict(state)
        self.tokens = state.get("tokens", 0)  # absent in commits of older versions
        guard = state.get("guard", {"losses": [], "in_a_row": 0})
        self._recent.clear()
        self._recent.extend(guard["losses"])
        self._in_a_row = guard["in_a_row"]

    def pass_over(self, step: int) -> None:
        """Before the batch of a step: skip the samples that earlier rollbacks to this step skipped."""
        if cursors := self._passed_over.get(str(step)):
            state = self._stream.state_dict()
            self._stream.load_state_dict({**state, "cursor": max(state["cursor"], cursors[-1])})

    @property
    def spike(self) -> float:
        """Losses above this are spikes: the median of the recent ones plus ``guard.spike_deviations``."""
        if len(self._recent) < self._settings.spike_window:
            return math.inf
        median = statistics.median(self._recent)
        deviation = MAD_TO_DEVIATION * statistics.median(abs(loss - median) for loss in self._recent)
        return median + self._settings.spike_deviations * deviation

    @property
    def loss_limit(self) -> float:
        """Steps with a loss above this are skipped."""
        return self.spike if self._settings.on_spike == "skip" else math.inf

    def must_roll_back(self, step: int, result: StepResult, sample_ids: list[int]) -> bool:
        """After a step: report it if it was bad. Returns whether too many were bad in a row."""
        limit, finite = self.spike, math.isfinite(result.loss)
        if result.applied:
            if result.loss > limit:
                self._report(Event.SPIKE, step, {"loss": result.loss, "limit": limit})
            self._in_a_row = 0
            self._recent.append(result.loss)
            return False
        self._in_a_row += 1
        reason = "loss" if not finite else "spike" if result.loss > self.loss_limit else "gradient"
        # If the loss is not finite, the bad samples are known; otherwise any of the batch may be the cause.
        samples = list(chain(*together(lambda: sample_ids if finite else result.bad_samples)))
        loss = {"loss": result.loss} if finite else {}
        self._report(Event.SKIPPED, step, {"reason": reason, "samples": samples, **loss})
        return self._in_a_row >= self._settings.max_skipped

    @property
    def last_step_was_good(self) -> bool:
        """Whether a commit may be made: a rollback to one made among bad steps would not help."""
        return self._in_a_row == 0

    def roll_back(self, checkpoints: Checkpoints, step: int, why: str) -> int:
        """Restore the weights of the last commit, and continue with the samples from here on.

        Returns:
            The step of the commit.

        Raises:
            GuardError: when there is no commit, or too many rollbacks to it.
        """
        cursor = self._stream.state_dict()["cursor"]
        back = checkpoints.restore()
        if back == 0:
            raise GuardError(f"{why} at step {step}, before anything was committed: {WHAT_TO_DO}")
        times = self._passed_over.setdefault(str(back), [])
        if len(times) == self._settings.max_rollbacks:
            raise GuardError(
                f"{why} at step {step}, after {len(times)} rollback{'' if len(times) == 1 else 's'} "
                f"to step {back} "
                f"(guard.max_rollbacks): {WHAT_TO_DO}"
            )
        times.append(cursor)
        if dist.get_rank() == 0:
            with new_file(self._journal) as temporary:
                temporary.write_text(json.dumps(self._passed_over), encoding="utf-8")
        self._report(Event.ROLLBACK, step, {"reason": why, "to": back})
        return back


def weights_are_finite(engine: Any) -> bool:
    """Whether all trained weights of all ranks are finite."""
    finite = torch.ones((), dtype=torch.int32, device=engine.device)
    for tensor in zero.trained_tensors(engine):
        finite &= tensor.isfinite().all()
    dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    return bool(finite)
