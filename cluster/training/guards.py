"""Guards of a run: bad steps change nothing, and when they do not end the run goes back to a commit.

A step is bad when its loss or its gradient is not finite, or when its loss is a spike and the settings say
that spikes are left out. It consumes its samples and its number. After ``max_skipped`` bad steps in a row
the weights go back to the last commit while the data goes on: the samples since that commit, the bad ones
among them, are passed over, so the same road is not walked twice.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed as dist

from cluster.checkpoints.commit import Checkpoints, Cursor
from cluster.checkpoints.durable import on_rank_0, together
from cluster.settings import GuardSettings
from cluster.training import zero
from odeformer.files.atomic import new_file

MAD_TO_DEVIATION = 1.4826
"""Of a normal distribution, the standard deviation over the median absolute deviation."""
WHAT_TO_DO = "lower optim.learning_rate, or look at the samples that events.jsonl says were skipped"


class StepResult(NamedTuple):
    """What an optimizer step came to; the same on all ranks but for ``bad_samples``."""

    loss: float
    """The mean over all counted tokens of all ranks, in nats, before the step, at the first depth."""
    tokens: int
    gradient_norm: float
    """Not finite exactly when the step was left out."""
    bad_samples: list[int]
    """Those of this rank whose own loss was not finite."""
    asked_to_end: bool = False
    """Some rank has been asked to end by now."""

    @property
    def applied(self) -> bool:
        return math.isfinite(self.gradient_norm)


class GuardError(RuntimeError):
    """A run that goes wrong whenever it goes on: nothing is gained by starting it again as it is."""


class Guards:
    """Asked by the loop once per step. Its state, and the stream's, is what a commit holds beside weights.

    All ranks ask the same and decide alike: what they decide by is the same on all of them.
    """

    def __init__(
        self,
        settings: GuardSettings,
        stream: Cursor,
        folder: Path,
        report: Callable[[str, int, dict[str, Any]], None],
    ) -> None:
        """``folder``: the run's, where a journal holds what was passed over."""
        self._settings, self._stream, self._report = settings, stream, report
        self._journal = folder / "passed_over.json"
        self._recent: deque[float] = deque(maxlen=settings.spike_window)
        self._in_a_row = 0
        # By the step of a commit: where in the data the run went on, each time it had gone back there.
        self._passed_over: dict[str, list[int]] = on_rank_0(
            lambda: json.loads(self._journal.read_text()) if self._journal.exists() else {}
        )

    def state_dict(self) -> dict[str, Any]:
        """The stream's position and the recent losses: a resumed run judges as an uninterrupted one."""
        guard = {"losses": list(self._recent), "in_a_row": self._in_a_row}
        return {**self._stream.state_dict(), "guard": guard}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state was saved."""
        self._stream.load_state_dict(state)
        guard = state.get("guard", {"losses": [], "in_a_row": 0})
        self._recent.clear()
        self._recent.extend(guard["losses"])
        self._in_a_row = guard["in_a_row"]

    def pass_over(self, step: int) -> None:
        """Before the batch of a step: move on if the run has gone back to here."""
        if cursors := self._passed_over.get(str(step)):
            state = self._stream.state_dict()
            self._stream.load_state_dict({**state, "cursor": max(state["cursor"], cursors[-1])})

    @property
    def spike(self) -> float:
        """A loss above this is far outside the recent ones: their median and so many deviations of it."""
        if len(self._recent) < self._settings.spike_window:
            return math.inf
        median = statistics.median(self._recent)
        deviation = MAD_TO_DEVIATION * statistics.median(abs(loss - median) for loss in self._recent)
        return median + self._settings.spike_deviations * deviation

    @property
    def loss_limit(self) -> float:
        """A step with a loss above this is left out."""
        return self.spike if self._settings.on_spike == "skip" else math.inf

    def must_roll_back(self, step: int, result: StepResult, sample_ids: list[int]) -> bool:
        """After a step: report what was wrong with it; whether there were too many bad ones in a row."""
        limit, finite = self.spike, math.isfinite(result.loss)
        if result.applied:
            if result.loss > limit:
                self._report("spike", step, {"loss": result.loss, "limit": limit})
            self._in_a_row = 0
            self._recent.append(result.loss)
            return False
        self._in_a_row += 1
        reason = "loss" if not finite else "spike" if result.loss > self.loss_limit else "gradient"
        # Where a loss is not finite, those samples; else any of the batch may be the cause.
        samples = list(chain(*together(lambda: sample_ids if finite else result.bad_samples)))
        loss = {"loss": result.loss} if finite else {}
        self._report("skipped", step, {"reason": reason, "samples": samples, **loss})
        return self._in_a_row >= self._settings.max_skipped

    @property
    def last_step_was_good(self) -> bool:
        """Going back to a commit made among bad steps would change nothing."""
        return self._in_a_row == 0

    def roll_back(self, checkpoints: Checkpoints, step: int, why: str) -> int:
        """Restore the last commit with the data going on from here; the step it was made at.

        Raises:
            GuardError: when there is no commit, or it has been gone back to too often.
        """
        cursor = self._stream.state_dict()["cursor"]
        back = checkpoints.restore()
        if back == 0:
            raise GuardError(f"{why} at step {step}, before anything was committed: {WHAT_TO_DO}")
        times = self._passed_over.setdefault(str(back), [])
        if len(times) == self._settings.max_rollbacks:
            raise GuardError(
                f"{why} at step {step}, after the run has gone back to step {back} {len(times)} times "
                f"(guard.max_rollbacks): {WHAT_TO_DO}"
            )
        times.append(cursor)
        if dist.get_rank() == 0:
            with new_file(self._journal) as beside:
                beside.write_text(json.dumps(self._passed_over))
        self._report("rollback", step, {"reason": why, "to": back})
        return back


def weights_are_finite(engine: Any) -> bool:
    """Whether every trained weight is, of all ranks."""
    finite = torch.ones((), dtype=torch.int32, device=engine.device)
    for tensor in zero.trained_tensors(engine):
        finite &= tensor.isfinite().all()
    dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    return bool(finite)
