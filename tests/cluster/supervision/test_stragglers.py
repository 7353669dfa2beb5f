"""A rank that is slower than the others is named, soon, and no rank of equal ones is."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import pytest
from small_runs import run_workers
from torch import distributed as dist
from waiting import wait_for

from cluster import pretrain
from cluster.runs import heartbeat
from cluster.runs.heartbeat import KEPT_WINDOWS, WINDOW, Beat, Window
from cluster.settings import PretrainSettings
from cluster.supervision.stragglers import Slow, Stragglers
from cluster.supervision.watchdog import Watchdog

STEPS = 2_000


def beats(
    ranks: int, steps: int, slow: dict[int, float], seed: int, phase: str = "forward"
) -> Iterator[list[Beat]]:
    """The heartbeats of ranks after each window of steps, each step as long as its depth and chance have it.

    Args:
        slow: by rank, how much longer than the others it takes in ``phase``.
    """
    chance = random.Random(seed)
    windows: list[list[Window]] = [[] for _ in range(ranks)]
    for number in range(steps // WINDOW):
        depths = [chance.choice([0.5, 1.0, 2.0]) for _ in range(WINDOW)]
        for rank in range(ranks):
            made = [
                {
                    "data": 1e-4 * chance.lognormvariate(0, 1),
                    "forward": depth * chance.lognormvariate(0, 0.1),
                    "backward": 2 * depth * chance.lognormvariate(0, 0.1),
                }
                for depth in depths
            ]
            for times in made:
                times[phase] *= slow.get(rank, 1.0)
            means = {key: geometric_mean(step[key] for step in made) for key in made[0]}
            windows[rank] = [*windows[rank], Window(number=number, phases=means)][-KEPT_WINDOWS:]
        yield [beat(rank, windows[rank]) for rank in range(ranks)]


def beat(rank: int, windows: list[Window]) -> Beat:
    return Beat(
        rank=rank,
        pid=1,
        thread=1,
        started=0.0,
        node="",
        host=f"host-{rank}",
        time=0.0,
        step=0,
        passed=0,
        transferring=False,
        asked=False,
        windows=windows,
    )


@pytest.mark.parametrize("ranks", [2, 3, 8])
@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_a_rank_slowed_by_30_percent_is_named_within_two_windows(ranks: int, phase: str) -> None:
    stragglers = Stragglers(ranks)
    named = [
        (window, slow)
        for window, now in enumerate(beats(ranks, STEPS, {1: 1.3}, seed=ranks, phase=phase), 1)
        for slow in stragglers.look(now)
    ]
    [(window, slow)] = named
    assert (window, slow.rank, slow.host, slow.phase) == (2, 1, "host-1", phase)
    assert slow.ratio == pytest.approx(1.3, abs=0.1)
    assert f"worker 1 on host-1: {phase} takes 1." in slow.reason


@pytest.mark.parametrize("seed", range(5))
def test_none_of_equal_ranks_is_named_in_2000_steps(seed: int) -> None:
    stragglers = Stragglers(8)
    assert [slow for now in beats(8, STEPS, {}, seed) for slow in stragglers.look(now)] == []


def test_one_that_became_as_fast_as_the_others_may_be_named_again() -> None:
    stragglers, named = Stragglers(2), list[tuple[int, Slow]]()
    for number, factor in enumerate([1.5, 1.5, 1.15, 1.5, 1.0, 1.5, 1.5]):
        now = [beat(rank, [window(number, factor if rank else 1.0)]) for rank in range(2)]
        named += [(number, slow) for slow in stragglers.look(now)]
    assert [(number, slow.rank) for number, slow in named] == [(1, 1), (6, 1)]


def test_ranks_are_compared_over_the_same_steps_however_late_their_hearts_beat() -> None:
    stragglers = Stragglers(2)
    # Deeper and deeper steps: the one that is seen later would look slow.
    windows = [window(number, 2.0**number) for number in range(6)]
    assert stragglers.look([beat(0, windows[:2]), beat(1, windows[2:6])]) == []
    assert stragglers.look([beat(0, windows[2:6]), beat(1, windows[2:6])]) == []


def slowed_worker(config: dict[str, Any]) -> None:
    """Worker function of a run in which rank 1 takes three times as long for its forward passes."""
    from cluster.training import step

    predictions = step.predictions

    def slow(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        logits = predictions(*arguments, **named)
        if dist.get_rank() == 1:
            time.sleep(2 * (time.perf_counter() - began))
        return logits

    step.predictions = slow
    heartbeats = Path(config["settings"]["run"]["dir"]) / heartbeat.FOLDER
    with heartbeat.beating(heartbeats, dist.get_rank(), "node"):
        pretrain.pretrain_worker(config)


def test_the_slow_worker_of_a_run_is_named_by_its_heartbeats(
    settings: Callable[..., PretrainSettings],
) -> None:
    made = settings(train={"steps": 10_000, "micro_batch": 4, "depths": [2]}, checkpoint={"every": 10_000})
    workers = run_workers(made, join=False, work=slowed_worker)
    try:
        dog, stragglers = Watchdog(made.run.dir / heartbeat.FOLDER, seconds=10_000), Stragglers(2)

        def look() -> list[Slow]:
            dog.look()
            return stragglers.look(dog.beats())

        slow = wait_for(look, pause=0.5)[0]
    finally:
        for process in workers.processes:
            process.kill()
            process.join()
    assert (slow.rank, slow.phase) == (1, "forward")
    assert slow.ratio > 1.2


def window(number: int, forward: float) -> Window:
    return Window(number=number, phases={"forward": forward})


def test_a_window_is_the_mean_of_its_steps_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_windows", ())
    monkeypatch.setattr(heartbeat, "_steps", [])
    for step in range(5, 2 * WINDOW + 1):  # resumed after step 4
        heartbeat.measured(step, {"forward": float(step)})
    [seen] = heartbeat._windows
    assert seen["number"] == 1
    assert seen["phases"] == {"forward": pytest.approx(geometric_mean(range(WINDOW + 1, 2 * WINDOW + 1)))}
