"""Tensor memory of a computation, from the allocator's record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

import torch


def peak_bytes(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Peak tensor bytes on ``device`` while ``run()`` executes, above those alive before.

    On the CPU the profiler's record of every allocation and release is replayed; on a GPU it is the caching
    allocator's maximum.
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return max(_alive_on_cpu(run), default=0)


def saved_bytes(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Tensor bytes that a forward pass ``run()`` leaves alive with its result, for its backward pass.

    This includes tensors saved by autograd, by gradient checkpointing and by custom autograd functions.
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        kept = run()
        alive = torch.cuda.memory_allocated(device) - before
        del kept
        return alive
    *_, alive = _alive_on_cpu(run)
    return alive


def _alive_on_cpu(run: Callable[[], object]) -> Iterator[int]:
    """Bytes alive above those before ``run()``, after each allocation and release."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        kept = run()
    del kept
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return accumulate(event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()))
