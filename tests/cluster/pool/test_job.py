"""The JSON of jobs that ``odeformer finetune list`` and ``show`` print."""

from __future__ import annotations

import json
from dataclasses import asdict

from cluster.pool.job import HistoryEntry, JobDetails


def test_the_json_of_a_job_keeps_its_keys_and_their_order() -> None:
    job = JobDetails(
        id="a/x/1",
        team="a",
        name="x",
        number=1,
        base="models:/base/1",
        priority=0,
        deadline=None,
        task={"name": "x"},
        state="queued",
        submitted=1.0,
        changed=2.0,
        reason=None,
        ending=None,
        attempts=0,
        result=None,
        error=None,
        folder="pool/a/x-1",
        together_with=[],
        waits_for="a slot",
        history=[HistoryEntry(1.0, "queued", None)],
        last_lines=["done"],
    )
    assert json.dumps(asdict(job)) == (
        '{"id": "a/x/1", "team": "a", "name": "x", "number": 1, "base": "models:/base/1", "priority": 0, '
        '"deadline": null, "task": {"name": "x"}, "state": "queued", "submitted": 1.0, "changed": 2.0, '
        '"reason": null, "ending": null, "attempts": 0, "result": null, "error": null, '
        '"folder": "pool/a/x-1", "together_with": [], "waits_for": "a slot", '
        '"history": [{"time": 1.0, "state": "queued", "reason": null}], "last_lines": ["done"], '
        '"time_left": null}'
    )
