"""``odeformer runs`` as its user reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from logged_runs import Log, troubled
from typer.testing import CliRunner
from watched_page import WatchedPage

from cluster.runs import lock
from cluster.runs.events import Event
from launcher.cli.main import app

RUNNER = CliRunner()


def run(*arguments: str | Path) -> str:
    result = RUNNER.invoke(app, ["runs", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def calm(steps: int) -> Log:
    log = Log()
    log.say(Event.LAUNCHED)
    log.start(seconds=2.0)
    for step in range(1, steps + 1):
        log.step(step)
        if step % 10 == 0:
            log.say(Event.VALIDATION, step, validation_loss_4=log.loss(step) + 0.1)
    return log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run after three kills, a job that runs, and one that was killed."""
    troubled().write(tmp_path / "first", optim={"learning_rate": 0.001}, run={"dir": "x"})
    calm(20).write(tmp_path / "pool" / "docs" / "task-1", optim={"learning_rate": 0.002}, run={"dir": "y"})
    calm(3).write(tmp_path / "killed")
    return tmp_path


def test_all_runs_and_jobs_are_listed_with_their_state(folder: Path) -> None:
    with lock.held(folder / "pool" / "docs" / "task-1"):
        listed = {Path(row["run"]).name: row for row in json.loads(run("list", folder, "--json"))}
        shown = run("list", folder)
    assert {name: row["state"] for name, row in listed.items()} == {
        "first": "finished",
        "task-1": "running",
        "killed": "killed",
    }
    assert listed["first"]["step"] == 30
    assert listed["first"]["goodput"] == pytest.approx(0.128, abs=0.01)
    assert listed["task-1"]["time_left"]["seconds"] == pytest.approx(20 * 1.25)
    assert listed["killed"]["time_left"] is None
    assert "25 s left [25 s, 25 s]" in shown


def test_a_run_shows_where_its_time_went_and_what_the_simulation_says(folder: Path) -> None:
    shown = run("show", folder / "first")
    assert "finished, step 30 of 40" in shown
    assert re.search(r"goodput 12\.\d% of 3\.9 min: restart \d+\.\d%, wait 26\.\d%, train 12\.\d%, ", shown)
    assert re.search(r"simulated with the same 4 starts: 1\d\.\d%", shown)
    assert "validation_loss_4" in shown


def test_it_says_what_held_a_run_up_and_what_to_do(folder: Path) -> None:
    found = json.loads(run("why", folder / "first", "--json"))
    whats = [finding["what"] for finding in found]
    assert re.match(r"\d+\.\d% of the time \(\d+ s\) went to starting and restarting", whats[0])
    assert whats[1].endswith("went to waiting for room on the cluster, the last time: less room")
    assert any(what.startswith("restarted 2 times, last at step 0") for what in whats)
    assert "its command was started 2 times" in whats
    shown = run("why", folder / "first")
    assert "  → cluster.min_workers lets it begin with fewer workers" in shown
    assert "  → failure.txt in its folder has the last traceback" in shown
    killed = json.loads(run("why", folder / "killed", "--json"))[0]
    assert killed["what"] == "its command was killed: no process holds its folder"


def test_what_a_run_reported_is_grouped_by_its_reason(tmp_path: Path) -> None:
    log = calm(10)
    for rank in (1, 3):
        log.say(Event.SLOW, rank, reason=f"worker {rank} on host: forward takes 1.3 × the median")
    log.say(Event.TRACKING_AWAY, 4, reason="no answer")
    log.say(Event.CORRUPTED, 5, reason="worker 1: gradient of a")
    log.say(Event.FAILED)
    found = {row["what"]: row["todo"] for row in json.loads(run("why", log.write(tmp_path / "x"), "--json"))}
    assert any(what.startswith("slow 2 times, last at step 3") for what in found)
    assert any(what.startswith("corrupted once at step 5") and "node" in found[what] for what in found)
    assert any(what.startswith("MLflow could not be reached: no answer") for what in found)
    assert next(iter(found)) == "it failed"


def test_two_runs_are_compared_in_the_terminal_and_on_a_page(
    folder: Path, tmp_path: Path, browser: Any
) -> None:
    first, second = folder / "first", folder / "pool" / "docs" / "task-1"
    page = tmp_path / "comparison.html"
    shown = run("compare", first, second, "--out", page)
    assert "optim.learning_rate" in shown
    assert "run.dir" not in shown
    assert "loss, from 2.133 to 6.000, to step 30" in shown
    _, one, other = shown[shown.index("loss, from") :].splitlines()[:3]
    assert re.fullmatch(r"A  +█ ▄.*▁ +2\.1333", one.strip())
    assert re.fullmatch(r"B  +█ ▄.*▁ +2\.2000", other.strip())
    assert one.count("▁") > other.count("▁"), "it has made fewer steps"
    refused = RUNNER.invoke(app, ["runs", "compare", str(first), str(second), "--out", str(page)])
    assert "exists already" in str(refused.exception)
    content = json.loads(run("compare", first, second, "--json"))
    assert content["settings"] == {"optim.learning_rate": [0.001, 0.002]}

    watched = WatchedPage(browser, page, 1440)
    assert watched.page.locator("[data-figure=loss] .scatterlayer .js-line").count() == 2
    assert "0.002" in watched.page.locator("table").first.inner_text()
    watched.close("runs")


def test_a_folder_without_a_run_is_said_in_one_line(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["runs", "show", str(tmp_path)])
    assert isinstance(result.exception, FileNotFoundError)
    assert "the folder of a run or a job is expected" in str(result.exception)
