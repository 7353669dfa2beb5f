"""Time of an optimizer step, by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class StepTimes:
    """A clock for each part of a step: ``with times("forward"): …``.

    A nested part stops the clock of the outer one, so that no second counts twice. On a CUDA device the
    clocks are CUDA events, which are read at the end of the step without synchronizing in between.

    ``communication`` consists of the all-reduces of the loop itself and, at ZeRO stage 0, of the gradients;
    it includes waiting for slower ranks. From stage 1 on DeepSpeed communicates within the backward pass and
    the optimizer step, overlapping with computation, so that the part cannot be measured and is omitted.
    """

    def __init__(self, engine: Any) -> None:
        self._device = torch.device(engine.device)
        self._stage = engine.zero_optimization_stage()
        self._separable = self._stage == 0
        self._open: list[str | None] = [None]
        # Part that the time from each mark to the next one belongs to.
        self._marks: list[tuple[str | None, Any]] = []
        if self._separable:
            engine.buffered_allreduce_fallback = self._timed(
                "communication", engine.buffered_allreduce_fallback
            )

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Measure the block as this part of the step."""
        self._open.append(part)
        self._mark()
        try:
            yield
        finally:
            self._open.pop()
            self._mark()

    def begin(self) -> None:
        """Begin a new step and forget the previous one."""
        self._open, self._marks = [None], []
        self._mark()

    def seconds(self) -> dict[str, float]:
        """``{"step_seconds": …, "forward_seconds": …, …}`` since the step began."""
        self._mark()
        if self._device.type == "cuda":
            self._marks[-1][1].synchronize()  # the step is over: nothing is slowed down
        parts: dict[str, float] = {}
        for (part, before), (_, after) in zip(self._marks, self._marks[1:], strict=False):
            if part is not None and (part != "communication" or self._separable):
                parts[part] = parts.get(part, 0.0) + self._between(before, after)
        whole = self._between(self._marks[0][1], self._marks[-1][1])
        return {"step_seconds": whole, **{f"{part}_seconds": value for part, value in parts.items()}}

    def alone(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """The parts of a step's :meth:`seconds` in which a rank does not wait for others.

        At ZeRO stage 3 the forward pass gathers weights, so that only loading data remains.
        """
        parts = [
            "data",
            *(["forward"] if self._stage < 3 else []),
            *(["backward"] if self._separable else []),
        ]
        return {part: seconds.get(f"{part}_seconds", 0.0) for part in parts}

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
