"""Goodput of a run that is killed three times: its parts add up to the wall time."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_runs import STEPS, pretraining, restarts
from small_runs import events
from waiting import wait_for, wait_until_gone

from cluster.runs.events import FILE_NAME, events_from
from cluster.runs.goodput import account_of
from cluster.tracking import runs, store


@pytest.mark.slow
def test_the_parts_of_a_run_with_three_kills_add_up_to_its_wall_time(tmp_path: Path, shards: Path) -> None:
    with pretraining(tmp_path, shards, until=9) as command:
        for kill, step in enumerate((9, 16)):
            command.wait_for_step(step)
            command.worker(1).kill()
            wait_for(lambda kill=kill: len(restarts(command.run)) > kill)
            command.let(step + 7)
        command.wait_for_step(23)
        workers = [command.worker(rank) for rank in range(2)]
        command.process.kill()
        wait_until_gone(workers)
    with pretraining(tmp_path, shards) as command:
        code, said, errors = command.end()
    assert code == 0, errors

    run = tmp_path / "run"
    [goodput], account = events(run, "goodput"), account_of(run)
    logged = events_from(run / FILE_NAME, 0)[0]
    wall = events(run, "finished")[0]["time"] - logged[0]["time"]
    parts = {key: value for key, value in goodput.items() if key.startswith("seconds_")}
    assert parts.pop("seconds_wall") == pytest.approx(sum(parts.values()))
    assert sum(parts.values()) == pytest.approx(wall, rel=0.01)

    made = events(run, "step")
    kept = {event["step"]: event["step_seconds"] for event in made}
    assert sorted(kept) == list(range(1, STEPS + 1))
    repeated = sum(event["step_seconds"] for event in made) - sum(kept.values())
    assert len(made) > STEPS
    waited = parts["seconds_checkpoint"]
    assert parts["seconds_repeat"] == pytest.approx(repeated, abs=waited)
    assert parts["seconds_train"] + parts["seconds_data"] == pytest.approx(sum(kept.values()), abs=waited)
    assert len(account.accidents) == 4
    assert f"goodput {account.goodput:.1%} of" in said
    assert "simulated with the same 4 starts:" in said
    metrics = store.connect(f"sqlite:///{tmp_path}/mlflow.db").get_run(runs.open_run(run)).data.metrics
    assert metrics["goodput"] == goodput["goodput"]
    assert metrics["seconds_restart"] == parts["seconds_restart"]
