"""The journal: what it refuses, and what is left of it when its process is killed."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from cluster.pool.database import FILE_NAME
from cluster.pool.job import ENDED, State, may_follow
from cluster.pool.journal import Journal


def task(team: str = "a", name: str = "kind", base: str = "models:/base/1") -> dict[str, Any]:
    return {"team": team, "name": name, "base": base, "priority": 0}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def test_the_same_submission_twice_is_one_job(journal: Journal) -> None:
    first = journal.submit(task(), "token")
    assert journal.submit(task(), "token") == first
    assert [job.id for job in journal.jobs()] == ["a/kind/1"]
    assert [entry.state for entry in journal.transitions()] == ["queued"]
    assert journal.knows("token")
    assert not journal.knows("another")


def test_a_name_is_taken_but_on_another_base(journal: Journal) -> None:
    job = journal.submit(task(), "1")
    journal.submit(task(team="b"), "2")  # another team's
    with pytest.raises(ValueError, match="name: team a has a job 'kind' already \\(queued\\)"):
        journal.submit(task(base="models:/base/2"), "3")
    journal.move(job.id, "running")
    journal.move(job.id, "succeeded")
    with pytest.raises(ValueError, match="succeeded"):
        journal.submit(task(), "4")
    assert journal.submit(task(base="models:/base/2"), "5").id == "a/kind/2"
    journal.move("a/kind/2", "cancelled")
    assert journal.submit(task(base="models:/base/2"), "6", again=True).id == "a/kind/3"


def test_only_what_may_follow_does(journal: Journal) -> None:
    job = journal.submit(task(), "1").id
    with pytest.raises(ValueError, match="is queued and cannot become succeeded"):
        journal.move(job, "succeeded")
    assert [entry.state for entry in journal.transitions(job)] == ["queued"], "nothing was written"
    for before, after in itertools.product(get_args(State), repeat=2):
        if before == "succeeded" or before == after:
            assert not may_follow(before, after)
        if before in ENDED and may_follow(before, after):
            assert after == "queued", "what has ended is only ever tried again"


def test_what_mlflow_does_not_know_is_the_last_transition_of_each_job(journal: Journal) -> None:
    first, second = (journal.submit(task(name=name), name).id for name in ("x", "y"))
    journal.move(first, "running")
    waiting = {job.id: number for job, number in journal.unmirrored()}
    assert waiting == {first: 3, second: 2}
    journal.mirrored(first, 3)
    journal.mirrored(second, 2)
    journal.move(second, "cancelled", "for a reason")
    assert [(job.id, job.reason, number) for job, number in journal.unmirrored()] == [
        (second, "for a reason", 4)
    ]


def test_one_pool_at_a_time_and_the_next_has_all(journal: Journal, tmp_path: Path) -> None:
    journal.submit(task(), "1")
    journal.keep_settings({"teams": {}}, 5.0)
    with pytest.raises(BlockingIOError, match="in use by another pool"):
        Journal(tmp_path, wait_seconds=0.2)
    journal.close()
    again = Journal(tmp_path)
    assert again.settings() == [(5.0, {"teams": {}})]
    assert [job.state for job in again.jobs()] == ["queued"]
    again.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(ValueError, match="format 99"):
        Journal(tmp_path)


WRITER = """
import sys
from pathlib import Path
from cluster.pool.journal import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 1_000_000):
    task = {"team": "a", "name": f"t{number}", "base": "b", "priority": 0}
    job = journal.submit(task, str(number)).id
    print(f"queued {number}", flush=True)
    journal.move(job, "running", attempts=1)
    print(f"running {number}", flush=True)
    journal.move(job, "succeeded", result={"after": number})
    print(f"succeeded {number}", flush=True)
"""


def test_what_was_said_to_be_written_is_there_after_a_kill(tmp_path: Path) -> None:
    begin = 0
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(begin)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(40 + begin % 7)]
        time.sleep(0.01 * (begin % 5))
        os.kill(writer.pid, signal.SIGKILL)
        said += writer.stdout.read().splitlines(keepends=True)
        writer.wait()
        journal = Journal(tmp_path)
        states = {job.name: job.state for job in journal.jobs()}
        history: dict[str, list[str]] = {}
        for entry in journal.transitions():
            history.setdefault(entry.job, []).append(entry.state)
        for line in (line.split() for line in said if line.endswith("\n")):
            state, name = line[0], f"t{line[1]}"
            assert state in history[f"a/{name}/1"], "it was said to be written"
        # Each job is in the state of its last transition: both or neither were written.
        assert states == {job.split("/")[1]: entries[-1] for job, entries in history.items()}
        assert all(len(set(entries)) == len(entries) for entries in history.values())
        begin = len(states)
        journal.close()


BEFORE_3 = """
DROP TABLE keys;
DROP TABLE audit;
DROP TABLE settings;
CREATE TABLE settings (one INTEGER PRIMARY KEY CHECK (one = 1), content TEXT NOT NULL) STRICT;
INSERT INTO settings VALUES (1, '{"teams": {}}');
"""


def test_a_journal_that_knew_only_the_last_settings_has_had_them_always(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.executescript(f"{BEFORE_3} PRAGMA user_version=2")
    database.close()
    journal = Journal(tmp_path)
    journal.keep_settings({"teams": {"a": {}}}, 7.0)
    assert journal.settings() == [(0.0, {"teams": {}}), (7.0, {"teams": {"a": {}}})]
    journal.close()


def test_a_journal_from_before_jobs_could_share_a_slot_is_read_and_goes_on(tmp_path: Path) -> None:
    old = Journal(tmp_path)
    job = old.submit(task(), "1").id
    old.move(job, "running", attempts=1)
    old.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        for table in ("jobs", "transitions"):
            database.execute(f"ALTER TABLE {table} DROP COLUMN process")
        database.executescript(f"{BEFORE_3} PRAGMA user_version=1")
    database.close()
    for _ in range(2):
        journal = Journal(tmp_path)
        assert journal.job(job).state == "running"
        assert [entry.process for entry in journal.transitions()] == [None, None]
        journal.close()
    journal = Journal(tmp_path)
    journal.move(job, "queued")
    journal.submit(task(team="b"), "2")
    for one in (job, "b/kind/1"):
        assert journal.move(one, "running", process=f"{job}/2").process == f"{job}/2"
    assert journal.shared(f"{job}/2") == [job, "b/kind/1"]
    assert journal.move(job, "succeeded").process is None
    assert [entry.process for entry in journal.transitions(job)][-2:] == [f"{job}/2", None]
