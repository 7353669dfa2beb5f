"""Five teams, every route, every foreign id: nothing is read or changed, and nothing tells that it exists."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from doors import SETTINGS, TEAMS, Door
from fastapi.routing import APIRoute
from small_tasks import base_folder

from cluster import registry
from cluster.door import file_routes, job_routes
from cluster.tags import KIND, TEAM
from cluster.tracking import runs

OTHER = {"model": "base", "training_file": "{own}", "validation_file": "{own}", "odeformer": SETTINGS}
TABLE: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/v1/files/{file_id}", None),
    ("GET", "/v1/files/{file_id}/content", None),
    ("GET", "/v1/files?after={file_id}", None),
    ("POST", "/v1/fine_tuning/jobs", {**OTHER, "training_file": "{file_id}"}),
    ("POST", "/v1/fine_tuning/jobs", {**OTHER, "validation_file": "{file_id}"}),
    ("GET", "/v1/fine_tuning/jobs/{job_id}", None),
    ("GET", "/v1/fine_tuning/jobs?after={job_id}", None),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/events", None),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/events?stream=true", None),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/checkpoints", None),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/resume", None),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel", None),
    ("DELETE", "/v1/files/{file_id}", None),
]
"""Every route that takes an id, and where."""
WITHOUT_ID = {
    ("GET", "/v1/files"),
    ("POST", "/v1/files"),
    ("GET", "/v1/fine_tuning/jobs"),
    ("GET", "/v1/fine_tuning/key"),
    ("GET", "/v1/fine_tuning/pool"),
}
UNKNOWN = {"file_id": "file-" + "0" * 24, "job_id": "ghost.first.1"}


@pytest.fixture(scope="module")
def ids(door: Door) -> Iterator[dict[str, dict[str, str]]]:
    """A file and a cancelled job of each team."""
    made = {}
    for team in TEAMS:
        file = door.upload(team, name=f"{team}.jsonl")
        job = door.create(team, file, suffix="theirs")
        door.client(team).fine_tuning.jobs.cancel(job.id)
        made[team] = {"file_id": file, "job_id": job.id}
    door.pool.wait(*(f"{team}/theirs/1" for team in TEAMS))
    yield made
    for job in door.pool.jobs():
        door.pool.cancel(job.id)
    door.pool.wait(*(job.id for job in door.pool.jobs()))


def ask(
    door: Door, team: str, route: tuple[str, str, dict[str, Any] | None], ids: dict[str, str], own: str
) -> requests.Response:
    method, path, body = route
    filled = json.loads(json.dumps(body).replace("{own}", own).replace("{file_id}", ids["file_id"]))
    return door.ask(door.keys[team], method, path.format(**ids), json=filled)


def told(answer: requests.Response, ids: dict[str, str]) -> tuple[int, list[str], str]:
    """What an answer says but for the id that was asked for."""
    text = answer.text
    for given in ids.values():
        text = text.replace(given, "ID")
    return answer.status_code, sorted(answer.headers), text


def state(door: Door) -> Any:
    jobs = [(job.id, job.state, door.pool.job(job.id).history) for job in door.pool.jobs()]
    files = {team: door.ask(door.keys[team], "GET", "/v1/files").json() for team in TEAMS}
    return jobs, files, door.pool.audit()


def test_the_table_has_every_route() -> None:
    routes = {
        (method, route.path)
        for route in (*file_routes.router.routes, *job_routes.router.routes)
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    assert {(method, path.partition("?")[0]) for method, path, _ in TABLE} | WITHOUT_ID == routes


def test_a_foreign_id_is_answered_as_an_unknown_one_and_nothing_changes(
    door: Door, ids: dict[str, dict[str, str]]
) -> None:
    before = state(door)
    for team in TEAMS:
        for route in TABLE:
            own = ids[team]["file_id"]
            expected = told(ask(door, team, route, UNKNOWN, own), UNKNOWN)
            assert expected[0] in (400, 404), route
            own_unknown = {**UNKNOWN, "job_id": f"{team}.nothing.1"}
            assert told(ask(door, team, route, own_unknown, own), own_unknown) == expected, route
            for other in TEAMS:
                if other != team:
                    answer = ask(door, team, route, ids[other], own)
                    assert told(answer, ids[other]) == expected, (team, other, route)
    assert state(door) == before


def test_the_same_requests_with_own_ids_are_answered(door: Door, ids: dict[str, dict[str, str]]) -> None:
    for route in TABLE:
        answer = ask(door, "docs", route, ids["docs"], ids["docs"]["file_id"])
        assert answer.ok or "needs the file" in answer.text, (route, answer.text)
    for team in TEAMS:
        jobs = door.ask(door.keys[team], "GET", "/v1/fine_tuning/jobs?limit=1000").json()["data"]
        assert {job["organization_id"] for job in jobs} == {team}
        others = [given for other in TEAMS if other != team for given in ids[other].values()]
        assert all(given not in json.dumps(jobs) for given in others)


def test_an_admin_sees_and_cancels_the_jobs_of_all_but_not_their_files(
    door: Door, ids: dict[str, dict[str, str]]
) -> None:
    jobs = door.ask(door.admin, "GET", "/v1/fine_tuning/jobs?limit=1000").json()["data"]
    assert {job["organization_id"] for job in jobs} >= set(TEAMS)
    job, file = ids["sales"]["job_id"], ids["sales"]["file_id"]
    assert door.ask(door.admin, "POST", f"/v1/fine_tuning/jobs/{job}/cancel").json()["status"] == "cancelled"
    assert door.ask(door.admin, "GET", f"/v1/files/{file}").status_code == 404


def test_a_model_of_another_team_cannot_be_named(door: Door, ids: dict[str, dict[str, str]]) -> None:
    uri, name = door.pool.uri(), "base--sales--whole"
    run_id = runs.start_run(uri, "test", name, {}, door.folder / name)
    tags = {KIND: "checkpoint", TEAM: "sales"}
    made = base_folder(door.folder, "whole")
    registry.register_version(made, name, run_id=run_id, uri=uri, tags=tags, alias="champion")

    def naming(team: str, model: str) -> requests.Response:
        file = ids[team]["file_id"]
        body = {**OTHER, "model": model, "training_file": file, "validation_file": file, "suffix": "on"}
        return door.ask(door.keys[team], "POST", "/v1/fine_tuning/jobs", json=body)

    for model in (name, f"models:/{name}/1", f"models:/{name}@champion"):
        unknown = model.replace("whole", "hole")
        assert told(naming("docs", model), {"a": model}) == told(naming("docs", unknown), {"a": unknown})
    assert naming("sales", name).status_code == 200
