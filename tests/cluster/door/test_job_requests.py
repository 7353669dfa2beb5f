"""What a team is shown of its job."""

from __future__ import annotations

import json
from pathlib import Path

from small_tasks import a_task

from cluster.door.events import event_page
from cluster.door.jobs import checkpoints, job_object, pool_id, public_id
from cluster.pool.job import HistoryEntry, JobDetails
from cluster.runs.events import EventLog


def a_job(folder: Path, reason: str, together_with: list[str]) -> JobDetails:
    history = [HistoryEntry(1.0, "queued", "submitted by key-1 of docs")]
    history.append(HistoryEntry(2.0, "running", reason))
    return JobDetails(
        id="docs/kind/1", team="docs", name="kind", number=1, base="models:/base/1", priority=0,
        deadline=None, task=a_task(folder, "docs").model_dump(mode="json"), state="running", submitted=1.0,
        changed=2.0, reason=None, ending=None, attempts=1, result=None, error=None, folder=str(folder),
        together_with=together_with, waits_for=None, history=history,
        last_lines=["printed by a process of sales/secret/1"],
    )  # fmt: skip


def test_other_teams_in_the_same_process_are_not_named(tmp_path: Path) -> None:
    others = ["docs/other/1", "sales/secret/1"]
    job = a_job(tmp_path, f"together with {', '.join(others)}", others)
    shown = job_object(job, "docs").model_dump()
    assert "secret" not in json.dumps(shown)
    assert shown["odeformer"]["together_with"] == ["docs/other/1", "another team's"]
    assert shown["odeformer"]["history"][1]["reason"] == "together with others"
    assert shown["odeformer"]["history"][0]["reason"] == "submitted by key-1 of docs"
    assert "secret" in job_object(job, None).model_dump_json(), "an admin sees them"
    own = a_job(tmp_path, "together with docs/other/1", ["docs/other/1"])
    assert job_object(own, "docs").model_dump()["odeformer"]["last_lines"] == own.last_lines


def test_ids_fit_into_paths_and_lead_back() -> None:
    assert pool_id(public_id("docs/a-kind_2/13")) == ("docs", "docs/a-kind_2/13")
    for given in ("docs", "docs.kind", "docs/kind/1", "../x.y.1", "docs.kind.x", "docs.kind.1\n", "a.b.c.1"):
        assert pool_id(given) is None


def test_all_pages_together_are_the_log_in_either_order(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    for step in range(3000):  # several blocks
        log("step", step, {"loss": 1.0, "depth": 4, "learning_rate": 1e-3, "tokens": step * 100})
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('not JSON\n{"event": "step"')
    for order in ("asc", "desc"):
        steps, offset, more = [], None, True
        while more:
            shown = event_page(tmp_path, offset, 700, order)  # type: ignore[arg-type]
            steps += [event.data["step"] for event in shown["data"]]
            offset, more = int(shown["last_id"].rpartition("-")[2]), shown["has_more"]
        assert steps == (list(range(3000)) if order == "asc" else list(range(2999, -1, -1)))
    assert event_page(tmp_path / "none", None, 20, "desc")["data"] == []


def test_checkpoints_have_the_losses_of_their_steps(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log("validation", 0, {"validation_loss": 3.0})
    log("step", 2, {"loss": 2.5})
    log("checkpoint", 2, {"checkpoint_seconds": 0.1})
    log("step", 4, {"loss": 1.5})
    log("validation", 4, {"validation_loss": 2.0})
    log("checkpoint", 4, {"checkpoint_seconds": 0.1})
    last, first = checkpoints(a_job(tmp_path, "", []))
    assert [first.step_number, last.step_number] == [2, 4]
    assert (first.metrics.train_loss, first.metrics.full_valid_loss) == (2.5, 3.0)
    assert (last.metrics.train_loss, last.metrics.full_valid_loss) == (1.5, 2.0)
    assert first.fine_tuned_model_checkpoint == "docs.kind.1@2"
