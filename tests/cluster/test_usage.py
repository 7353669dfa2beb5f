"""Who pays, against sums done by hand."""

from __future__ import annotations

import json
from itertools import starmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.pool.job import Transition
from cluster.pool.usage import by_team, running_seconds
from cluster.runs.cost import Cost, cost_of, run_tags
from cluster.settings import ClusterSettings


def test_a_run_costs_its_workers_time_those_made_again_included(tmp_path: Path) -> None:
    events = [
        {"event": "started", "step": 0, "workers": 2},
        {"event": "step", "step": 1, "step_seconds": 1800.0, "tokens": 100},
        {"event": "step", "step": 2, "step_seconds": 1800.0, "tokens": 200},
        {"event": "resumed", "step": 1, "workers": 1},
        {"event": "step", "step": 2, "step_seconds": 3600.0, "tokens": 200},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    tags = run_tags(tmp_path, ClusterSettings(workers=2, cpus_per_worker=4, gpus_per_worker=1))
    assert cost_of(tags) == Cost(cpu_hours=12.0, gpu_hours=3.0)
    assert tags["odeformer.tokens"] == "200"
    assert cost_of({}) == Cost()


def test_a_job_runs_from_running_to_whatever_follows() -> None:
    transitions = [
        (1, 0.0, "a/x/1", "a", "queued", None, None),
        (2, 10.0, "a/x/1", "a", "running", None, "a/x/1/1"),
        (3, 12.0, "b/y/1", "b", "running", None, None),  # of a journal from before jobs could share a slot
        (4, 40.0, "a/x/1", "a", "queued", "preempted", None),
        (5, 50.0, "a/x/1", "a", "running", None, "a/x/1/2"),
        (6, 60.0, "a/x/1", "a", "trained", None, None),
        (7, 99.0, "a/x/1", "a", "succeeded", None, None),
        (8, 99.0, "c/z/1", "c", "cancelled", None, None),
        (9, 100.0, "c/just/1", "c", "running", None, "c/just/1/1"),
    ]
    assert running_seconds(starmap(Transition, transitions), now=100.0) == {
        "a/x/1": 40.0,
        "b/y/1": 88.0,
        "c/just/1": 0.0,
    }


def test_jobs_that_share_a_slot_share_its_time() -> None:
    transitions = [
        (1, 10.0, "a/x/1", "a", "running", None, "a/x/1/1"),
        (2, 10.0, "b/y/1", "b", "running", None, "a/x/1/1"),
        (3, 10.0, "b/z/1", "b", "running", None, "a/x/1/1"),
        (4, 10.0, "c/alone/1", "c", "running", None, "c/alone/1/1"),
        (5, 40.0, "a/x/1", "a", "failed", None, None),
        (6, 45.0, "a/x/1", "a", "queued", None, None),
        (7, 50.0, "a/x/1", "a", "running", None, "a/x/1/2"),
        (8, 60.0, "b/z/1", "b", "succeeded", None, None),
        (9, 70.0, "b/y/1", "b", "queued", "its process died", None),
    ]
    seconds = running_seconds(starmap(Transition, transitions), now=80.0)
    assert seconds == {"a/x/1": 10.0 + 30.0, "b/y/1": 10.0 + 10.0 + 10.0, "b/z/1": 20.0, "c/alone/1": 70.0}
    assert sum(seconds.values()) == 60.0 + 30.0 + 70.0, "what the three slots were held for"


def test_a_base_is_shared_by_the_teams_that_used_it() -> None:
    jobs: list[Any] = [
        SimpleNamespace(id="a/1", team="a", base="models:/m/1"),
        SimpleNamespace(id="a/2", team="a", base="models:/m/1"),
        SimpleNamespace(id="b/1", team="b", base="models:/m/1"),
        SimpleNamespace(id="b/2", team="b", base="models:/other/1"),
        SimpleNamespace(id="c/1", team="c", base="models:/m/1"),
    ]
    seconds = {"a/1": 3600.0, "a/2": 1800.0, "b/1": 3600.0, "b/2": 3600.0}  # that of team c never ran
    bases = {"models:/m/1": Cost(100.0, 8.0), "models:/other/1": Cost(10.0)}
    a, b = by_team(jobs, seconds, Cost(cpu_hours=2.0, gpu_hours=1.0), bases)
    assert (a.team, a.jobs, a.own, a.share) == ("a", 2, Cost(3.0, 1.5), Cost(50.0, 4.0))
    assert a.alone == Cost(103.0, 9.5)
    assert b.share == Cost(60.0, 4.0)
    assert b.bases == ("models:/m/1", "models:/other/1")
    shares = [team.share.cpu_hours for team in (a, b)]
    assert sum(shares) == pytest.approx(110.0), "all that was paid is paid by somebody"
    assert b.total == b.own.plus(b.share)
