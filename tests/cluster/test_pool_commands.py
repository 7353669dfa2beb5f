"""The pool by the command line, on a head node with token authentication that somebody else started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from heads import Head, head_node
from small_tasks import a_task, register_base
from waiting import wait_for

SETTINGS = """
dir: pool
tracking_uri: sqlite:///{folder}/mlflow.db
teams:
  docs: {{weight: 2, max_running: 1}}
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """One slot. The head's ``folder`` is that of the pool's settings and the tasks."""
    folder = tmp_path_factory.mktemp("commands")
    register_base(folder)
    (folder / "pool.yaml").write_text(SETTINGS.format(folder=folder))
    with head_node({"finetune": 1}, dashboard=False) as node:
        yield replace(node, folder=folder)


def write_task(folder: Path, name: str, **changes: Any) -> str:
    task = a_task(folder, "docs", name, **changes).model_dump(mode="json", exclude_none=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(task))
    return str(path)


def good(head: Head, *arguments: str) -> str:
    code, out, err = head(*arguments)
    assert (code, err) == (0, ""), out
    return out


def refused(head: Head, *arguments: str) -> str:
    code, out, err = head(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ")


def test_a_task_is_submitted_waited_for_and_listed(head: Head) -> None:
    first = write_task(head.folder, "first")
    assert good(head, "pool", "start", str(head.folder / "pool.yaml")).startswith("running, ")
    assert "docs/first/1 succeeded: accuracy" in good(head, "finetune", "submit", first, "--wait")
    assert refused(head, "finetune", "submit", first).startswith("name: team docs has a job 'first' already")
    [job] = json.loads(good(head, "finetune", "list", "--json"))
    assert (job["team"], job["name"], job["state"]) == ("docs", "first", "succeeded")


@pytest.mark.parametrize("token", ["", "f" * 64])
def test_a_wrong_or_missing_token_is_named_in_one_line(head: Head, token: str) -> None:
    environment = {key: value for key, value in head.environment.items() if not key.startswith("RAY_AUTH")}
    if token:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    stranger = replace(head, environment=environment)
    for command in (("finetune", "list"), ("pool", "status")):
        error = refused(stranger, *command)
        assert error.startswith(
            f"the Ray cluster at {head.of_drivers} requires another token: set RAY_AUTH_MODE"
        )


def test_keys_are_shown_once_listed_and_revoked(head: Head) -> None:
    good(head, "pool", "start", str(head.folder / "pool.yaml"))
    made = json.loads(good(head, "pool", "keys", "add", "docs", "--expires", "2999-12-31", "--json"))
    assert set(made) == {"team", "id", "key"}
    assert made["key"] not in good(head, "pool", "keys", "list", "--json")
    assert good(head, "pool", "keys", "revoke", made["id"]) == f"{made['id']} of docs is revoked\n"
    [key] = json.loads(good(head, "pool", "keys", "list", "--json"))
    assert (key["team"], key["role"], key["revoked"] is None) == ("docs", "member", False)
    assert "revoked" in good(head, "pool", "keys", "list")
    assert "has passed" in refused(head, "pool", "keys", "add", "docs", "--expires", "2020-01-01")
    assert refused(head, "pool", "keys", "add", "../docs").startswith("team '../docs': letters, digits")
    did = [entry["action"] for entry in json.loads(good(head, "pool", "audit", "--json"))]
    assert [action for action in did if action in ("added", "revoked")] == ["added", "revoked"]


@pytest.mark.slow
def test_a_job_is_followed_cancelled_and_retried_and_the_pool_stopped(head: Head) -> None:
    long = {"steps": 100_000, "global_batch": 8, "learning_rate": 1e-4}
    good(head, "pool", "start", str(head.folder / "pool.yaml"))
    assert good(head, "finetune", "submit", write_task(head.folder, "second", train=long)) == (
        "submitted: docs/second/1\n"
    )
    following = head.start("finetune", "logs", "second", "-f")
    events = head.folder / "pool" / "docs" / "second-1" / "events.jsonl"
    wait_for(lambda: events.is_file() and '"step"' in events.read_text())
    shown = good(head, "finetune", "show", "docs/second")
    assert "running" in shown
    assert "base: models:/base/1" in shown
    assert good(head, "finetune", "cancel", "second").startswith("docs/second/1 is being cancelled")
    out, err = following.communicate()
    assert following.returncode == 1
    assert "job docs/second/1 is cancelled" in err
    assert "started 0" in out
    assert "step 1 loss=" in out
    assert "loss=" in good(head, "finetune", "logs", "second")
    assert good(head, "finetune", "retry", "second") == "docs/second/1 is queued\n"
    assert "no job 'third' in the pool" in refused(head, "finetune", "show", "third")
    status = json.loads(good(head, "pool", "status", "--json"))
    assert [team["weight"] for team in status["teams"]] == [2.0]
    assert "docs" in good(head, "pool", "status")
    other = refused(head, "pool", "start", "--set", f"dir={head.folder}/other")
    assert other.startswith("dir: the pool of this cluster is in")
    assert good(head, "pool", "drain").startswith("draining: 1 jobs still run")
    assert good(head, "pool", "stop").startswith("stopped;")
    assert refused(head, "finetune", "list").startswith("there is no pool on this cluster")
