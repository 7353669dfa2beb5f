"""How much memory a computation holds, read off the allocator's own record of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

import torch


def peak_bytes(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most tensor bytes alive at once on ``device`` while ``run()`` executes, above those before it.

    On the CPU the profiler's record of every allocation and release is replayed; on a GPU the caching
    allocator's own maximum is read.
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    return max(_alive_on_cpu(run), default=0)


def saved_bytes(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Tensor bytes that a forward pass ``run()`` leaves alive with its result: what its backward pass needs.

    Whoever keeps them is counted: autograd's graph, a checkpoint's arguments, a function of our own.
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
    """Bytes alive above those before ``run()``, after each allocation and release; its result is kept."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        kept = run()
    del kept
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return accumulate(event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()))
