"""What becomes of a job by how its process ended: a real journal, and slots that note what they are told."""

from __future__ import annotations

import json
import signal
import sqlite3
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.checkpoints.folder import name as commit_name
from cluster.pool import board, dispatch, journal
from cluster.pool.board import Board
from cluster.pool.database import FILE_NAME
from cluster.pool.dispatch import CANCELLED, Dispatcher
from cluster.pool.job import JobRecord
from cluster.pool.journal import Journal
from cluster.pool.settings import PoolSettings
from cluster.pool.slots import Ended
from cluster.pool.warm import OUTCOME
from cluster.runs import heartbeat, preemption
from cluster.supervision import watchdog


class NotedSlots:
    """Slots whose processes end when the test says so. A process is known here by its first job's id."""

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
        self.orders[_first(order["process"])] = order

    def end(self, process: str, number: int = signal.SIGTERM) -> None:
        self.signals.append((_first(process), number))

    def leaves(self, first: str, place: int, **outcome: Any) -> None:
        """Have a job leave something of its end."""
        job = self.orders[first]["jobs"][place]
        content = {"attempt": job["attempt"], **outcome}
        (Path(job["folder"]) / OUTCOME).write_text(json.dumps(content))

    def ends(self, first: str, code: int | None, is_too_large: bool = False, **outcome: Any) -> None:
        """Have a process end, with what its first job leaves of its end."""
        if outcome:
            self.leaves(first, 0, **outcome)
        self._ended.append(Ended(self.orders.pop(first)["process"], code, is_too_large))


def _first(process: str) -> str:
    return process.rpartition("/")[0]


class Bench:
    """A pool without Ray: a board, a dispatcher and slots."""

    def __init__(self, folder: Path, slots: int = 1, **settings: Any) -> None:
        self.settings = PoolSettings.model_validate({"dir": folder, "grace_seconds": 0.3, **settings})
        self.journal = Journal(folder)
        self.board = Board(self.journal, self.settings)
        self.slots = NotedSlots(slots)
        self.dispatcher = Dispatcher(self.board, self.slots)  # type: ignore[arg-type]

    def submit(
        self,
        name: str,
        team: str = "a",
        priority: int = 0,
        deadline: float | None = None,
        sequence_length: int | None = 8,
        look: bool = True,
    ) -> str:
        task = {
            "team": team,
            "name": name,
            "base": "models:/base/1",
            "priority": priority,
            "kind": "classification",
            "data": {"train": "train.jsonl"},
            "train": {"sequence_length": sequence_length},
        }
        job = self.board.submit(task, f"{team}/{name}", deadline, again=False).id
        if look:
            self.dispatcher.look()
        return job

    def state(self, job: str) -> tuple[str, str | None]:
        """A job's state and the reason of it."""
        found = self.journal.job(job)
        return found.state, found.reason

    def end(self, job: str, code: int | None, **outcome: Any) -> JobRecord:
        """End a job's process; the job, once the pool has looked."""
        self.slots.ends(job, code, **outcome)
        self.dispatcher.look()
        return self.journal.job(job)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is, for the pool: nearly the same until a test moves it on."""
    now = [time.time()]

    def tick() -> float:
        now[0] += 1e-6
        return now[0]

    for module in (board, dispatch, journal):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=tick, monotonic=tick))
    return now


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(dispatch, "AWAY_SECONDS", 0.0)
    return Bench(tmp_path, max_failures=2)


RESULT = {
    **{"team": "a", "task": "x", "metric": "loss", "before": 2.0, "after": 1.0, "gate": None},
    **{"adapter_model": "base--a--x", "adapter_version": "1", "base_version": "1"},
    **{"method": "lora", "depth": 4},
}


def test_a_killed_job_is_begun_again_until_it_gets_no_further(
    bench: Bench, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = iter(range(10, 10_000, 100))  # each look is long after the one before
    later = lambda: clock[0] + next(pauses)  # noqa: E731
    monkeypatch.setattr(dispatch, "time", SimpleNamespace(time=later, monotonic=later))
    job = bench.submit("x")
    for attempt in (1, 2):
        assert bench.slots.orders[job]["jobs"][0]["attempt"] == attempt
        bench.end(job, -9)
        bench.dispatcher.look()
    folder = bench.board.folder(bench.journal.job(job))
    (folder / "checkpoints" / commit_name(100)).mkdir(parents=True)
    for _ in range(2):  # it has got further: the count begins anew
        assert bench.end(job, None).state == "queued"
        bench.dispatcher.look()
    failed = bench.end(job, -9)
    assert (failed.state, failed.attempts) == ("failed", 5)
    assert failed.error == "its process died (killed, or out of memory)"


def test_an_error_of_the_program_is_final_and_a_store_that_is_away_is_not(bench: Bench) -> None:
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
    assert bench.journal.move(job, "cancelled").state == "cancelled", "nobody has to wait for a registry"
    assert other in bench.slots.orders
    assert bench.end(other, 0, result=RESULT).state == "succeeded"


def test_a_job_that_is_asked_to_end_is_asked_once_and_killed_in_the_end(
    bench: Bench, clock: list[float]
) -> None:
    job = bench.submit("x")
    bench.dispatcher.stop_job(bench.journal.job(job), "the pool was stopped")
    bench.dispatcher.stop_job(bench.journal.job(job), CANCELLED)
    assert bench.slots.signals == [(job, signal.SIGTERM)], "a second one would end it without a commit"
    clock[0] += 0.35
    bench.dispatcher.look()
    assert bench.slots.signals[-1] == (job, signal.SIGKILL)
    assert bench.end(job, -9).state == "cancelled"


def test_a_deadline_ends_what_waits_and_what_runs_but_not_what_was_trained_in_time(
    bench: Bench, clock: list[float]
) -> None:
    soon = clock[0] + 0.2
    running, waiting = bench.submit("r", deadline=soon), bench.submit("w", deadline=soon)
    clock[0] += 0.25
    bench.dispatcher.look()
    assert bench.journal.job(waiting).error == "past its deadline"
    assert preemption.is_asked(bench.board.folder(bench.journal.job(running)))
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
    before.dispatcher.stop_job(before.journal.job(jobs[2]), CANCELLED)
    before.submit("queued", team="b", look=False)
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


ODD_OUTCOMES = {
    "no JSON": "{",
    "a list": "[1]",
    "no result's fields": '{"attempt": 1, "result": {}}',
    "another type": '{"attempt": 1, "result": [3]}',
    "nothing": '{"attempt": 1}',
    "no attempt": '{"error": "x"}',
    "a word for a truth": '{"attempt": 1, "error": "x", "is_mendable": "perhaps"}',
}


@pytest.mark.parametrize("content", ODD_OUTCOMES.values(), ids=ODD_OUTCOMES)
@pytest.mark.parametrize("is_pool_killed", [False, True])
def test_whatever_is_written_as_a_jobs_outcome_ends_that_job_alone(
    tmp_path: Path, content: str, is_pool_killed: bool
) -> None:
    bench = Bench(tmp_path, slots=2)
    odd, other = bench.submit("odd"), bench.submit("other")
    (bench.board.folder(bench.journal.job(odd)) / OUTCOME).write_text(content)
    if is_pool_killed:
        bench.journal.close()
        bench = Bench(tmp_path, slots=2)
        bench.dispatcher.recover()
        assert bench.state(other)[0] == "queued"
    else:
        bench.end(odd, 0)
        assert bench.state(other)[0] == "running"
    failed = bench.journal.job(odd)
    assert failed.state == "failed"
    assert f"{OUTCOME} does not hold the end of an attempt" in str(failed.error)
    bench.board.move(failed, "queued")
    bench.dispatcher.look()
    bench.dispatcher.look()
    assert bench.end(odd, -9).error == "its process died (killed, or out of memory)", "the file is no more"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("task = '{'", "its task in the journal cannot be read: name: "),
        ("task = json_set(task, '$.train.steps', 'many')", "cannot be read: train.steps: "),
        ("task = json_set(task, '$.of_a_later_version', 1)", "cannot be read: of_a_later_version: "),
        ("task = json_set(task, '$.team', 'b')", "its task in the journal is that of b/odd"),
    ],
)
def test_an_odd_row_of_the_journal_ends_that_job_alone(tmp_path: Path, change: str, error: str) -> None:
    before = Bench(tmp_path, slots=0)
    odd, other = before.submit("odd"), before.submit("other")
    before.journal.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute(f"UPDATE jobs SET {change} WHERE name = 'odd'")
        database.execute("INSERT INTO settings (time, content) VALUES (0, '[]'), (0, '{\"settings\": 3}')")
    database.close()
    after = Bench(tmp_path)
    after.dispatcher.recover()
    after.dispatcher.look()
    assert after.journal.job(odd).state == "failed"
    assert error in str(after.journal.job(odd).error)
    assert after.state(other)[0] == "running"


def test_what_finds_no_room_in_the_journal_is_written_later_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, slots=2, jobs_per_slot=2)
    ended, first = bench.submit("ended"), bench.submit("first")
    alike = [bench.submit(name, look=False) for name in ("third", "fourth")]
    moves = Journal.move

    def refuse(*names: str) -> None:
        def move(self: Journal, job: str, *arguments: Any, **changes: Any) -> JobRecord:
            if job.split("/")[1] in names:
                raise OSError("database or disk is full")
            return moves(self, job, *arguments, **changes)

        monkeypatch.setattr(Journal, "move", move)

    refuse("ended", "fourth")
    bench.slots.ends(ended, 0, result=RESULT)
    for _ in range(2):
        with pytest.raises(OSError, match="disk is full"):
            bench.dispatcher.look()
    assert [bench.state(job)[0] for job in (ended, first)] == ["running", "running"]
    refuse("fourth")
    with pytest.raises(OSError, match="disk is full"):
        bench.dispatcher.look()
    assert [bench.state(job)[0] for job in (ended, *alike)] == ["succeeded", "running", "queued"]
    assert set(bench.slots.orders) == {first, alike[0]}, "one that the journal has as running does run"


def test_no_job_begins_without_room_on_the_disk_and_a_bad_folder_holds_up_its_job_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "ROOM_BYTES", 2**60)
    odd = bench.submit("odd")
    assert bench.dispatcher.waits_for(bench.journal.job(odd)).startswith("room on its disk: ")
    monkeypatch.undo()
    bench.board.folder(bench.journal.job(odd)).parent.mkdir()
    bench.board.folder(bench.journal.job(odd)).touch()
    other = bench.submit("other")
    assert [bench.state(job)[0] for job in (odd, other)] == ["queued", "running"]
    assert bench.dispatcher.waits_for(bench.journal.job(odd)).startswith("its folder to be usable (")
    folder = bench.board.folder(bench.journal.job(other))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700, "other users do not read it"


def test_a_clock_that_is_set_back_leaves_no_ghost_in_the_accounts(tmp_path: Path, clock: list[float]) -> None:
    before = Bench(tmp_path, teams={"a": {"max_running": 1}})
    first = before.submit("first")
    clock[0] += 10
    before.slots.ends(first, 0, result=RESULT)
    clock[0] -= 300
    before.dispatcher.look()
    moments = [entry.time for entry in before.journal.transitions(first)]
    assert moments == sorted(moments)
    before.journal.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:  # as written by earlier versions
        database.execute("UPDATE transitions SET time = time - 300 WHERE state = 'succeeded'")
    database.close()
    after = Bench(tmp_path, teams={"a": {"max_running": 1}})
    assert after.board.shares.busy == 0
    assert after.board.shares.account("a").service < 20
    assert after.state(after.submit("second"))[0] == "running"


def test_a_clock_that_jumps_ahead_takes_nothing_from_the_time_to_commit(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.submit("x")
    bench.dispatcher.stop_job(bench.journal.job(job), "the pool was stopped")
    ahead = SimpleNamespace(time=lambda: time.time() + 1e6, monotonic=dispatch.time.monotonic)
    monkeypatch.setattr(dispatch, "time", ahead)
    bench.dispatcher.look()
    assert bench.slots.signals == [(job, signal.SIGTERM)]


def test_a_drained_pool_begins_nothing(bench: Bench) -> None:
    bench.dispatcher.is_draining = True
    job = bench.submit("x")
    assert bench.slots.orders == {}
    bench.dispatcher.is_draining = False
    bench.dispatcher.look()
    assert job in bench.slots.orders


TWO = ("a", "b")


def test_jobs_that_would_wait_share_a_slot_if_they_are_alike(tmp_path: Path) -> None:
    bench = Bench(tmp_path, slots=2, jobs_per_slot=3)
    bench.slots.starting = 1
    jobs = [bench.submit(name, look=False) for name in "123"]
    other = bench.submit("other", sequence_length=16, look=False)
    unlike = bench.submit("unlike", sequence_length=None, look=False)
    urgent = bench.submit("urgent", priority=1, look=False)
    bench.dispatcher.look()
    assert list(bench.slots.orders) == [urgent, jobs[0]], "each free slot has a job of its own first"
    assert [len(order["jobs"]) for order in bench.slots.orders.values()] == [1, 3], "none of another priority"
    assert [bench.state(job)[0] for job in (other, unlike)] == ["queued", "queued"]
    assert [job.id for job in bench.board.in_process(bench.journal.job(jobs[0]).process)] == jobs
    assert bench.board.shares.busy == 2


def test_a_job_that_a_slot_will_soon_be_there_for_has_it_to_itself(tmp_path: Path) -> None:
    bench = Bench(tmp_path, slots=1, jobs_per_slot=3)
    bench.slots.starting = 2
    jobs = [bench.submit(name, look=False) for name in "1234"]
    bench.dispatcher.look()
    assert [bench.state(job)[0] for job in jobs] == ["running", "running", "queued", "queued"]


def test_slots_that_become_free_together_are_filled_evenly(tmp_path: Path) -> None:
    bench = Bench(tmp_path, slots=2, jobs_per_slot=4)
    for name in "1234":
        bench.submit(name, look=False)
    bench.dispatcher.look()
    assert [len(order["jobs"]) for order in bench.slots.orders.values()] == [2, 2]


def test_a_quota_counts_jobs_not_slots(tmp_path: Path) -> None:
    bench = Bench(tmp_path, jobs_per_slot=4, teams={"a": {"max_running": 2}})
    for name in "123":
        bench.submit(name, look=False)
    bench.dispatcher.look()
    [order] = bench.slots.orders.values()
    assert len(order["jobs"]) == 2


@pytest.mark.parametrize("gone", [False, True])
def test_those_whose_process_is_killed_are_tried_alone(tmp_path: Path, gone: bool) -> None:
    bench = Bench(tmp_path, jobs_per_slot=3, max_failures=1)
    jobs = [bench.submit(name, look=False) for name in "12"]
    bench.dispatcher.look()
    bench.end(jobs[0], None if gone else -9)
    bench.dispatcher.look()
    assert [len(order["jobs"]) for order in bench.slots.orders.values()] == [1]
    assert sorted(bench.state(job)[0] for job in jobs) == ["queued", "running"]
    assert {bench.journal.job(job).failures for job in jobs} == {1}


def test_what_fails_for_all_counts_against_nobody_and_what_fails_for_one_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path, jobs_per_slot=3, max_failures=0)
    jobs = [bench.submit(name, look=False) for name in "123"]
    bench.dispatcher.look()
    for place in (0, 1):
        bench.slots.leaves(jobs[0], place, error="the joint pass failed", is_mendable=False, is_its_own=False)
    bench.slots.leaves(jobs[0], 2, error="ValueError: bad", is_mendable=False, is_its_own=True)
    bench.end(jobs[0], 1)
    bench.dispatcher.look()
    assert bench.state(jobs[2]) == ("failed", "ValueError: bad")
    assert [len(order["jobs"]) for order in bench.slots.orders.values()] == [1], "alone"
    assert bench.end(jobs[0], -9).state == "failed", "max_failures is 0, and now it is its own"


def test_one_that_ends_before_the_others_is_not_kept_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "ADJUST_SECONDS", 0.0)
    bench = Bench(tmp_path, jobs_per_slot=2)
    jobs = [bench.submit(name, look=False) for name in "12"]
    bench.dispatcher.look()
    bench.slots.leaves(jobs[0], 1, result=RESULT)
    bench.dispatcher.look()
    assert [bench.state(job)[0] for job in jobs] == ["running", "succeeded"]
    assert bench.board.shares.busy == 1
    assert bench.end(jobs[0], -9).failures == 1, "it was alone by then"


def test_one_that_is_cancelled_or_late_leaves_the_others_alone(tmp_path: Path, clock: list[float]) -> None:
    bench = Bench(tmp_path, jobs_per_slot=3)
    cancelled, late, other = (
        bench.submit(name, deadline=clock[0] + 0.2 if name == "late" else None, look=False)
        for name in ("cancelled", "late", "other")
    )
    bench.dispatcher.look()
    clock[0] += 0.25
    bench.dispatcher.stop_job(bench.journal.job(cancelled), CANCELLED)
    bench.dispatcher.look()
    folders = {job: bench.board.folder(bench.journal.job(job)) for job in (cancelled, late, other)}
    assert [preemption.is_asked(folders[job]) for job in (cancelled, late, other)] == [True, True, False]
    assert bench.slots.signals == []
    # None of the two ends in time: their process is killed, and the third is not to blame.
    clock[0] += 0.35
    bench.dispatcher.look()
    assert bench.slots.signals[-1] == (cancelled, signal.SIGKILL)
    bench.slots.ends(cancelled, -9)
    bench.dispatcher.is_draining = True
    bench.dispatcher.look()
    assert [bench.state(job)[0] for job in (cancelled, late)] == ["cancelled", "failed"]
    assert bench.state(other) == ("queued", f"its process was killed: {cancelled} did not stop in time")
    assert bench.journal.job(other).failures == 0


def test_a_slot_that_is_wanted_is_given_back_by_all_and_asked_for_once(
    tmp_path: Path, clock: list[float]
) -> None:
    bench = Bench(tmp_path, jobs_per_slot=3, grace_seconds=60)
    jobs = [bench.submit(name, look=False) for name in "123"]
    bench.dispatcher.look()
    bench.dispatcher.stop_job(bench.journal.job(jobs[2]), CANCELLED)
    urgent = bench.submit("urgent", "b", priority=1)
    assert bench.slots.signals == [], "a job is about to end: that is waited for"
    bench.slots.leaves(jobs[0], 2, preempted=7)
    clock[0] += 1.1 * dispatch.ADJUST_SECONDS
    bench.dispatcher.look()
    assert bench.state(jobs[2])[0] == "cancelled"
    bench.dispatcher.look()
    assert bench.slots.signals == [(jobs[0], signal.SIGTERM)]
    for job in bench.board.jobs("running"):
        bench.dispatcher.stop_job(job, "the pool was stopped")
    assert bench.slots.signals == [(jobs[0], signal.SIGTERM)], "a second one would end it without a commit"
    for place in (0, 1):
        bench.slots.leaves(jobs[0], place, preempted=7)
    bench.slots.ends(jobs[0], 0)
    bench.dispatcher.look()
    assert list(bench.slots.orders) == [urgent]
    assert [bench.state(job)[0] for job in jobs[:2]] == ["queued", "queued"]


def test_a_pool_that_died_divides_what_shared_slots_took_as_before(
    tmp_path: Path, clock: list[float]
) -> None:
    before = Bench(tmp_path, jobs_per_slot=2)
    jobs = [before.submit("x", team, look=False) for team in TWO]
    before.dispatcher.look()
    clock[0] += 0.2
    before.dispatcher.is_draining = True
    before.slots.ends(jobs[0], -9)
    before.dispatcher.look()
    served = [before.board.shares.account(team).service for team in TWO]
    assert served == pytest.approx([0.1, 0.1], abs=1e-3), "of one slot"
    before.journal.close()
    after = Bench(tmp_path, jobs_per_slot=2)
    assert [after.board.shares.account(team).service for team in TWO] == pytest.approx(served)


def test_jobs_end_when_the_budget_is_spent_and_go_on_in_the_next_period(
    tmp_path: Path, clock: list[float]
) -> None:
    clock[0] = datetime(2026, 11, 30, 22, tzinfo=UTC).timestamp()
    thrifty = {"budget": {"slot_hours": 0.5, "per": "day"}}
    bench = Bench(tmp_path, grace_seconds=60, stuck_after=1e6, jobs_per_slot=2, teams={"thrifty": thrifty})
    for name in ("x", "y"):
        for team in ("thrifty", "other"):
            bench.submit(name, team, look=False)
    bench.dispatcher.look()
    [order] = bench.slots.orders.values()
    mine, theirs = "thrifty/x/1", "other/x/1"
    clock[0] += 3600 - 0.2  # half of the slot
    bench.dispatcher.look()
    assert bench.journal.job(mine).ending is None
    clock[0] += 0.4
    bench.dispatcher.look()
    assert bench.journal.job(mine).ending == "its team's budget is spent"
    assert bench.journal.job(theirs).ending is None
    assert bench.slots.signals == [], "the one that shares the slot goes on"
    assert preemption.is_asked(bench.board.folder(bench.journal.job(mine)))
    places = [job["task"]["team"] for job in order["jobs"]]
    bench.slots.leaves(theirs, places.index("thrifty"), preempted=7)
    clock[0] += 2
    bench.dispatcher.look()
    assert bench.state(mine) == ("queued", "its team's budget is spent")
    bench.slots.leaves(theirs, places.index("other"), result=RESULT)
    bench.end(theirs, 0)
    assert set(bench.slots.orders) == {"other/y/1"}, "no job of the team that has spent its own"
    assert bench.dispatcher.waits_for(bench.journal.job(mine)) == (
        "the next day: its team's 0.5 slot-hours are spent"
    )
    clock[0] = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    bench.end("other/y/1", 0, result=RESULT)
    bench.dispatcher.look()
    assert bench.journal.job(mine).attempts == 2


def test_a_queued_job_says_what_it_waits_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, teams={"one": {"max_running": 1}})
    bench.submit("runs", "one")
    quota, slot = bench.submit("second", "one"), bench.submit("x", "other")
    assert bench.dispatcher.waits_for(bench.journal.job(quota)) == "its team's quota: 1 at a time"
    assert bench.dispatcher.waits_for(bench.journal.job(slot)) == "a slot"
    bench.dispatcher.is_draining = True
    assert "drained" in bench.dispatcher.waits_for(bench.journal.job(slot))


def beat(bench: Bench, job: str, at: float, passed: int, transferring: bool = False) -> None:
    """Write the heartbeat of a job's process."""
    content = heartbeat.Beat(
        rank=0,
        pid=1,
        thread=1,
        started=0.0,
        node="",
        host="",
        time=at,
        step=3,
        passed=passed,
        transferring=transferring,
        asked=False,
        windows=[],
    )
    folder = bench.board.folder(bench.journal.job(job)) / heartbeat.FOLDER
    folder.mkdir(exist_ok=True)
    (folder / "0.json").write_text(json.dumps(content))


@pytest.mark.parametrize("shared", [False, True])
def test_a_job_without_heartbeat_or_progress_is_killed_and_tried_again(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    bench = Bench(tmp_path, stuck_after=30, max_failures=1, jobs_per_slot=2)
    jobs = [bench.submit(name, look=False) for name in ("x", "y")[: 1 + shared]]
    bench.dispatcher.look()

    def pass_by(seconds: int, *, beats: bool, passed: int = 1, transferring: bool = False) -> None:
        for _ in range(seconds // 5):
            clock[0] += 5
            if beats:
                beat(bench, jobs[0], clock[0], passed, transferring)
            bench.dispatcher.look()

    (bench.board.folder(bench.journal.job(jobs[0])) / heartbeat.FOLDER).mkdir()
    (bench.board.folder(bench.journal.job(jobs[0])) / heartbeat.FOLDER / "odd.json").write_text("[]")
    pass_by(500, beats=True, passed=0)  # imports and weights take their time
    pass_by(100, beats=True, transferring=True)  # and so do files of the registry's
    assert bench.slots.signals == []
    pass_by(40, beats=True)
    assert bench.slots.signals == [(jobs[0], signal.SIGKILL)]
    assert bench.end(jobs[0], -9).failures == 1
    reasons = [bench.journal.transitions(job)[2].reason for job in jobs]
    why = "its process was stuck after step 3: nobody has made progress for 3"
    assert all(str(reason).startswith(why) for reason in reasons), "all of those that shared it"
    bench.dispatcher.look()
    [order] = bench.slots.orders.values()
    assert len(order["jobs"]) == 1, "each is tried alone"

    beat(bench, jobs[0], clock[0], 2)
    bench.dispatcher.look()
    pass_by(40, beats=False)
    failed = bench.end(jobs[0], -9)
    assert failed.state == "failed"
    assert str(failed.error).startswith("its process was stuck: no heartbeat for 3")


def test_a_process_that_never_had_a_heartbeat_is_stuck_as_well(bench: Bench, clock: list[float]) -> None:
    job = bench.submit("x")
    clock[0] += 590
    bench.dispatcher.look()
    assert bench.slots.signals == []
    clock[0] += 20
    bench.dispatcher.look()
    assert bench.slots.signals == [(job, signal.SIGKILL)]


def test_a_job_that_uses_more_memory_than_it_may_has_failed_and_says_so(tmp_path: Path) -> None:
    bench = Bench(tmp_path, memory_per_slot=2, jobs_per_slot=2, max_failures=5)
    jobs = [bench.submit(name, look=False) for name in ("x", "y")]
    bench.dispatcher.look()
    assert bench.slots.orders[jobs[0]]["memory"] == 2
    bench.slots.ends(jobs[0], -9, is_too_large=True)
    for _ in range(2):
        bench.dispatcher.look()
    assert {bench.state(job)[0] for job in jobs} == {"queued", "running"}, "each is tried alone"
    bench.slots.ends(jobs[0], -9, is_too_large=True)
    bench.dispatcher.look()
    assert bench.state(jobs[0]) == (
        "failed",
        "its process used more memory than memory_per_slot allows, and was killed",
    )
