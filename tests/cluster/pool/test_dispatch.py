"""What becomes of a job by how its process ended: a real journal, and slots that note what they are told."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.checkpoints.folder import name as commit_name
from cluster.pool import dispatch
from cluster.pool.board import Board
from cluster.pool.dispatch import CANCELLED, Dispatcher
from cluster.pool.journal import Job, Journal
from cluster.pool.settings import PoolSettings
from cluster.pool.slots import Ended
from cluster.pool.warm import OUTCOME


class NotedSlots:
    """Slots whose jobs end when the test says so."""

    def __init__(self, count: int) -> None:
        self._count, self.starting = count, 0
        self.orders: dict[str, dict[str, Any]] = {}
        self.signals: list[tuple[str, int]] = []
        self._ended: list[Ended] = []

    @property
    def free(self) -> int:
        return self._count - len(self.orders)

    def adjust(self) -> None:
        """There are as many as there were."""

    def look(self) -> list[Ended]:
        ended, self._ended = self._ended, []
        return ended

    def run(self, order: dict[str, Any]) -> None:
        self.orders[order["id"]] = order

    def end(self, job: str, number: int = signal.SIGTERM) -> None:
        self.signals.append((job, number))

    def ends(self, job: str, code: int | None, **outcome: Any) -> None:
        """Have a job's process end, with what it leaves of its end."""
        order = self.orders.pop(job)
        if outcome:
            folder = Path(order["folder"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / OUTCOME).write_text(json.dumps({"attempt": order["attempt"], **outcome}))
        self._ended.append(Ended(job, code))


class Bench:
    """A pool without Ray: a board, a dispatcher and slots."""

    def __init__(self, folder: Path, slots: int = 1, **settings: Any) -> None:
        self.settings = PoolSettings.model_validate({"dir": folder, "grace_seconds": 0.3, **settings})
        self.journal = Journal(folder)
        self.board = Board(self.journal, self.settings)
        self.slots = NotedSlots(slots)
        self.dispatcher = Dispatcher(self.board, self.slots)  # type: ignore[arg-type]

    def submit(self, name: str, team: str = "a", priority: int = 0, deadline: float | None = None) -> str:
        task = {"team": team, "name": name, "base": "models:/base/1", "priority": priority}
        job = self.board.submit(task, f"{team}/{name}", deadline, again=False).id
        self.dispatcher.look()
        return job

    def end(self, job: str, code: int | None, **outcome: Any) -> Job:
        """End a job's process; the job, once the pool has looked."""
        self.slots.ends(job, code, **outcome)
        self.dispatcher.look()
        return self.journal.job(job)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(dispatch, "AWAY_SECONDS", 0.0)
    return Bench(tmp_path, max_failures=2)


RESULT = {"adapter_version": "1", "after": 1.0}


def test_a_killed_job_is_begun_again_until_it_gets_no_further(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = iter(range(10, 10_000, 100))  # each look is long after the one before
    began = time.time()
    monkeypatch.setattr(time, "time", lambda: began + next(pauses))
    job = bench.submit("x")
    for attempt in (1, 2):
        assert bench.slots.orders[job]["attempt"] == attempt
        bench.end(job, -9)
        bench.dispatcher.look()
    (Path(bench.slots.orders[job]["folder"]) / "checkpoints" / commit_name(100)).mkdir(parents=True)
    for _ in range(2):  # it has got further: the count begins anew
        assert bench.end(job, None).state == "queued"
        bench.dispatcher.look()
    failed = bench.end(job, -9)
    assert (failed.state, failed.attempts) == ("failed", 5)
    assert failed.error == "its process died (killed, or out of memory)"


def test_a_program_s_error_is_final_and_a_store_that_is_away_is_not(bench: Bench) -> None:
    first = bench.submit("first")
    for _ in range(5):
        away = bench.end(first, 1, error="ConnectionError: no", is_mendable=True, is_store_away=True)
        assert (away.state, away.failures) == ("queued", 0), "it costs nothing"
        bench.dispatcher.look()
    second = bench.submit("second")
    failed = bench.end(first, 1, error="ValueError: bad", is_mendable=False, is_store_away=False)
    assert (failed.state, failed.error) == ("failed", "ValueError: bad")
    assert second in bench.slots.orders


def test_an_outcome_of_an_earlier_attempt_says_nothing(bench: Bench) -> None:
    job = bench.submit("x")
    bench.end(job, 75, preempted=3)
    assert bench.journal.job(job).attempts == 2
    killed = bench.end(job, -9)
    assert killed.error == "its process died (killed, or out of memory)"


def test_what_was_trained_waits_for_the_registry_without_a_slot(bench: Bench) -> None:
    job, other = bench.submit("x"), bench.submit("y")
    assert bench.end(job, 0, result={**RESULT, "adapter_version": None}).state == "trained"
    assert other in bench.slots.orders
    assert bench.end(other, 0, result=RESULT).state == "succeeded"


def test_a_job_that_is_asked_to_end_is_asked_once_and_killed_in_the_end(bench: Bench) -> None:
    job = bench.submit("x")
    bench.dispatcher.ask_to_end(bench.journal.job(job), "the pool was stopped")
    bench.dispatcher.ask_to_end(bench.journal.job(job), CANCELLED)
    assert bench.slots.signals == [(job, signal.SIGTERM)], "a second one would end it without a commit"
    time.sleep(0.35)
    bench.dispatcher.look()
    assert bench.slots.signals[-1] == (job, signal.SIGKILL)
    assert bench.end(job, -9).state == "cancelled"


def test_a_deadline_ends_what_waits_and_what_runs_but_not_what_was_trained_in_time(bench: Bench) -> None:
    soon = time.time() + 0.2
    running, waiting = bench.submit("r", deadline=soon), bench.submit("w", deadline=soon)
    time.sleep(0.25)
    bench.dispatcher.look()
    assert bench.journal.job(waiting).error == "past its deadline"
    assert bench.slots.signals == [(running, signal.SIGTERM)]
    assert bench.end(running, 0, result=RESULT).state == "succeeded", "it was about to end anyway"


def test_one_makes_room_for_one_of_a_higher_priority(bench: Bench) -> None:
    low = bench.submit("low", team="a")
    urgent = bench.submit("urgent", team="b", priority=1)
    also = bench.submit("also", team="c", priority=1)
    assert bench.slots.signals == [(low, signal.SIGTERM)]
    moved = bench.end(low, 75, preempted=7)
    assert (moved.state, moved.reason) == ("queued", "preempted by a higher priority")
    assert set(bench.slots.orders) == {urgent}
    assert bench.end(urgent, 0, result=RESULT).state == "succeeded"
    assert set(bench.slots.orders) == {also}


def test_a_pool_that_died_knows_what_became_of_its_jobs(tmp_path: Path) -> None:
    before = Bench(tmp_path, slots=4)
    jobs = [before.submit(name) for name in ("ended", "cut", "cancelled", "waits")]
    before.slots.ends(jobs[0], 0, result=RESULT)
    before.dispatcher.ask_to_end(before.journal.job(jobs[2]), CANCELLED)
    task = {"team": "b", "name": "queued", "base": "models:/base/1", "priority": 0}
    before.board.submit(task, "token", None, again=False)
    before.journal.close()

    after = Bench(tmp_path, slots=0)
    after.dispatcher.recover()
    states = {job.name: (job.state, job.reason) for job in after.journal.jobs()}
    assert states == {
        "ended": ("succeeded", None),
        "cut": ("queued", "its process went with the pool"),
        "cancelled": ("cancelled", None),
        "waits": ("queued", "its process went with the pool"),
        "queued": ("queued", None),
    }
    assert (after.board.shares.account("a").waiting, after.board.shares.account("b").waiting) == (2, 1)
    assert not after.board.shares.account("a").began


def test_a_drained_pool_begins_nothing(bench: Bench) -> None:
    bench.dispatcher.is_draining = True
    job = bench.submit("x")
    assert bench.slots.orders == {}
    bench.dispatcher.is_draining = False
    bench.dispatcher.look()
    assert job in bench.slots.orders
