"""Where the time of an optimizer step goes, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class StepTimes:
    """A clock for each part of a step: ``with times("forward"): …``. The clocks of parts add up.

    A part that begins within another one stops that one's clock until it ends, so no second counts twice.
    On a CUDA device the clocks are events on the device's own time line: they are read when the step is
    over, and nothing waits for them meanwhile.

    ``communication`` is what can be told apart: the sums over all ranks that the loop makes itself, and at
    ZeRO stage 0 the all-reduce of the gradients. From stage 1 on DeepSpeed sends gradients and weights from
    within the backward pass and the optimizer's step, partly while these compute: it is not separable
    without making it slower, and the part is left out. Whoever waits for a slower rank spends that time in
    communication, too.
    """

    def __init__(self, engine: Any) -> None:
        self._device = torch.device(engine.device)
        self._separable = engine.zero_optimization_stage() == 0
        self._open: list[str | None] = [None]
        # From each mark to the next one the time is this part's.
        self._marks: list[tuple[str | None, Any]] = []
        if self._separable:
            engine.buffered_allreduce_fallback = self._timed(
                "communication", engine.buffered_allreduce_fallback
            )

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Until the block ends the time is this part's."""
        self._open.append(part)
        self._mark()
        try:
            yield
        finally:
            self._open.pop()
            self._mark()

    def begin(self) -> None:
        """A step begins; what is known of the one before is forgotten."""
        self._open, self._marks = [None], []
        self._mark()

    def seconds(self) -> dict[str, float]:
        """``{"step_seconds": …, "forward_seconds": …, …}`` since the step began."""
        self._mark()
        if self._device.type == "cuda":
            self._marks[-1][1].synchronize()  # at the end of a step there is nothing left to wait for
        found: dict[str, float] = {}
        for (part, before), (_, after) in zip(self._marks, self._marks[1:], strict=False):
            if part is not None and (part != "communication" or self._separable):
                found[part] = found.get(part, 0.0) + self._between(before, after)
        whole = self._between(self._marks[0][1], self._marks[-1][1])
        return {"step_seconds": whole, **{f"{part}_seconds": value for part, value in found.items()}}

    def _mark(self) -> None:
        now: Any
        if self._device.type == "cuda":
            now = torch.cuda.Event(enable_timing=True)
            now.record(torch.cuda.current_stream(self._device))
        else:
            now = time.perf_counter()
        self._marks.append((self._open[-1], now))

    def _between(self, before: Any, after: Any) -> float:
        return (
            float(before.elapsed_time(after)) / 1000 if self._device.type == "cuda" else float(after - before)
        )

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            with self(part):
                return function(*arguments, **named)

        return timed
