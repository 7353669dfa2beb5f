"""A trace of a few steps by torch's profiler, and on a GPU a snapshot of its memory."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

FOLDER = "traces"
"""Folder of the traces, in that of the run."""
MEMORY_ENTRIES = 200_000
"""Allocations that a memory snapshot remembers."""

logger = logging.getLogger(__name__)


class Trace:
    """Traces the steps from ``first`` to ``last`` of one rank.

    It leaves ``traces/steps-<first>-<last>.rank-<rank>.json.gz``, which Perfetto and ``chrome://tracing``
    open, and beside it ``….pickle``, for https://pytorch.org/memory_viz.
    """

    def __init__(self, steps: str | None, run: Path, rank: int, device: torch.device) -> None:
        self._first, self._last = map(int, steps.split("-")) if steps else (0, 0)
        self._path = run / FOLDER / f"steps-{self._first}-{self._last}.rank-{rank}.json.gz"
        self._device = device
        self._profile: Any = None

    def before(self, step: int) -> None:
        """Begin the trace if this step is the first to be traced."""
        if self._profile is not None or not self._first <= step <= self._last:
            return
        is_cuda = self._device.type == "cuda"
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
        self._profile = profile(activities=kinds, record_shapes=True, profile_memory=True)
        if is_cuda:
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_ENTRIES)
        self._profile.__enter__()

    def after(self, step: int) -> None:
        """End the trace and write it if this step is the last to be traced."""
        if self._profile is None or step < self._last:
            return
        tracing, self._profile, self._last = self._profile, None, 0
        tracing.__exit__(None, None, None)
        beside = self._path.with_name(f".{self._path.name}")  # the profiler compresses by the suffix
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._device.type == "cuda":
                snapshot = self._path.with_name(self._path.name.replace(".json.gz", ".pickle"))
                torch.cuda.memory._dump_snapshot(str(snapshot))
                torch.cuda.memory._record_memory_history(enabled=None)
            tracing.export_chrome_trace(str(beside))
            beside.replace(self._path)
        except OSError as error:  # a run must not fail for its trace
            logger.warning("the trace cannot be written: %s", error)
