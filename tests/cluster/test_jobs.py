"""Jobs on a real head node with token authentication, through the command line."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from heads import Head, head_node
from ports import free_port
from small_runs import small_settings
from waiting import wait_for

from cluster.connection import jobs
from cluster.connection.job import lacking
from cluster.doctor import ray_cluster
from cluster.settings import PretrainSettings


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head node with room for two pretraining workers."""
    with head_node({"pretrain": 2}) as head:
        yield head


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> Callable[..., str]:
    """A factory of files of small settings: ``config("name", section={key: value})``."""

    def make(name: str, **sections: dict[str, Any]) -> str:
        sections.setdefault("run", {"dir": tmp_path / name})
        settings: PretrainSettings = small_settings(shards, tmp_path, **sections)
        path = tmp_path / f"{name}.yaml"
        path.write_text(settings.model_dump_json())  # JSON is YAML
        return str(path)

    return make


def test_a_job_that_fails_says_why_and_its_name_is_taken(
    head: Head, config: Callable[..., str], tmp_path: Path
) -> None:
    doomed = config("doomed")
    missing = f"data.shards={tmp_path}/nowhere"
    code, out, err = head("submit", "pretrain", doomed, "--set", missing)
    assert code == 0, err
    assert out.startswith("submitted: doomed;")
    assert err == ""
    job = head.wait("doomed", lambda job: job["state"] not in ("pending", "running"))
    assert job["state"] == "failed"
    assert job["cause"].startswith("exit code 2: ")
    assert f"{tmp_path}/nowhere" in job["cause"]
    assert any(f"{tmp_path}/nowhere" in line for line in job["last_lines"])
    code, out, err = head("submit", "pretrain", doomed)
    assert (code, out) == (2, "")
    assert err.startswith("error: job 'doomed' already exists")
    assert err.count("\n") == 1


def test_a_wrong_token_and_other_peoples_jobs(head: Head) -> None:
    stranger = replace(head, environment=head.environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
    code, out, err = stranger("jobs", "list")
    assert (code, out) == (2, "")
    assert "requires another token" in err
    assert err.count("\n") == 1
    code, out, err = head("jobs", "stop", "nobodys")
    assert (code, out) == (2, "")
    assert "no pretraining job 'nobodys'" in err


def test_a_process_that_has_had_another_token_is_let_in_with_this_one(
    head: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with pytest.raises(PermissionError, match="requires another token"):
        jobs.JobServer(head.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.environment["RAY_AUTH_TOKEN"])
    assert isinstance(jobs.JobServer(head.address).jobs(), list)


@pytest.mark.slow
def test_a_job_waits_for_its_place_and_runs_to_the_end_when_another_is_stopped(
    head: Head, config: Callable[..., str], tmp_path: Path
) -> None:
    code, _, err = head("submit", "pretrain", config("long"), "--set", "train.steps=1000000")
    assert code == 0, err
    events = tmp_path / "long" / "events.jsonl"
    wait_for(
        lambda: events.is_file() and '"checkpoint"' in events.read_text(),
        lambda: head("jobs", "logs", "long"),
    )
    assert head.job("long")["state"] == "running"

    code, _, err = head("submit", "pretrain", config("short"), "--name", "second", "--set", "train.steps=6")
    assert code == 0, err
    waiting = head.wait("second", lambda job: "pretrain" in (job["lacks"] or ""))
    assert waiting["state"] == "pending"
    assert waiting["lacks"] == "CPU: 2 wanted, 0 free of 2; pretrain: 2 wanted, 0 free of 2"

    follower = head.start("jobs", "logs", "second", "--follow")
    code, out, err = head("jobs", "stop", "long")
    assert code == 0, err
    assert out.startswith("stopped: long;")
    assert '"interrupted"' in events.read_text(), "it ended as by Ctrl-C"
    assert head("jobs", "logs", "long")[1].splitlines()[-1] == "interrupted"
    out, err = follower.communicate()
    assert follower.returncode == 0, err
    assert f"weights: {tmp_path}/short/final" in out
    assert (tmp_path / "short" / "final" / "config.json").is_file()

    found = {job["name"]: job for job in json.loads(head("jobs", "list", "--json")[1])}
    assert found["long"]["state"] == "stopped"
    assert found["second"]["state"] == "succeeded"
    assert list(found).index("second") < list(found).index("long"), "the latest first"


def test_where_nobody_answers_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ANSWER_SECONDS", 1.0)
    with pytest.raises(ConnectionError, match="no Ray cluster answers at"):
        jobs.JobServer(f"http://127.0.0.1:{free_port()}")
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ConnectionError, match="timed out"):
        jobs.JobServer(f"http://127.0.0.1:{silent.getsockname()[1]}")
    with pytest.raises(ValueError, match="expected the address of a cluster's dashboard"):
        jobs.JobServer("127.0.0.1:6379")


def test_passwords_in_addresses_are_not_submitted(settings: Callable[..., PretrainSettings]) -> None:
    plain = settings(tracking={"uri": "http://me:secret@127.0.0.1:9"})
    assert "secret" not in jobs._for_the_cluster(plain).model_dump_json()
    signed = plain.data.model_copy(update={"shards": "https://host/shards?sig=secret"})
    with pytest.raises(ValueError, match=r"data\.shards https://host/shards\?sig=\*\*\* holds a password"):
        jobs._for_the_cluster(plain.model_copy(update={"data": signed}))


def test_what_a_job_lacks_names_only_what_is_short() -> None:
    wanted, there = {"CPU": 4.0, "GPU": 4.0, "pretrain": 4.0}, {"CPU": 64.0, "pretrain": 4.0}
    lacks = lacking(wanted, {"CPU": 2.0, "pretrain": 2.0}, there)
    assert lacks == "GPU: 4 wanted, 0 free of 0; pretrain: 4 wanted, 2 free of 4"


def test_the_doctor_asks_the_cluster_what_it_is(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, head.environment[name])
    [dashboard] = ray_cluster.look(head.address)
    assert dashboard.state == "ok", dashboard
    wait_for(
        lambda: "0 nodes" not in ray_cluster.look(head.of_drivers)[0].found
    )  # the dashboard is there first
    itself = ray_cluster.look(head.of_drivers)[0]
    assert itself.found.endswith(f"{head.of_drivers}, 1 nodes with 2 pretrain, 0 finetune"), itself
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    for address in (head.address, head.of_drivers):
        [refused] = ray_cluster.look(address)
        assert refused.state == "failed"
        assert "refuses the token" in refused.found
