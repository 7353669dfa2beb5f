"""The door's client, by itself and behind the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from doors import Door
from ports import free_port
from small_tasks import a_task

from cluster.door.client import KEY, URL, RemotePool
from launcher.cli.main import app
from launcher.finetunes import lines

LONG = {"steps": 100_000, "global_batch": 8, "learning_rate": 1e-4}


@pytest.fixture
def remote(door: Door) -> Iterator[RemotePool]:
    with RemotePool(door.url, door.keys["docs"]) as pool:
        yield pool


def test_a_remote_pool_says_what_the_pool_says(door: Door, remote: RemotePool) -> None:
    job = remote.submit(a_task(door.folder, "docs", "remote", metadata={"ticket": "8"}, depth=2))
    assert job == remote.find("remote") == "docs/remote/1"
    assert "by key-" in str(door.pool.job(job).history[0].reason)
    door.pool.wait(job)
    assert remote.jobs() == door.pool.jobs("docs")
    details = remote.job(job)
    assert details == door.pool.job(job)
    assert (details.state, details.task["metadata"], details.task["depth"]) == (
        "succeeded",
        {"ticket": "8"},
        2,
    )
    events, end = remote.events(job)
    assert (events, end) == door.pool.events(job)
    assert remote.events(job, end) == ([], end)
    assert list(lines(remote, job, follow=True)) == list(lines(door.pool, job, follow=True))

    other = remote.submit(a_task(door.folder, "docs", "longer", train=LONG))
    remote.cancel(other)
    [ended] = door.pool.wait(other)
    assert ended.state == "cancelled"
    try:
        assert remote.retry(other) in ("queued", "running")  # the slot is free: which of the two is a race
    finally:
        remote.cancel(other)
    door.pool.wait(other)


def test_what_is_refused_is_one_line_and_leaves_no_file(door: Door, remote: RemotePool) -> None:
    before = door.ask(door.keys["docs"], "GET", "/v1/files").json()
    with pytest.raises(
        ValueError, match="team: the task is of sales, and the key in ODEFORMER_POOL_KEY of docs"
    ):
        remote.submit(a_task(door.folder, "sales", "other"))
    with pytest.raises(ValueError, match="model: there is no model 'models:/other@champion'"):
        remote.submit(a_task(door.folder, "docs", "other", base="models:/other@champion"))
    with pytest.raises(ValueError, match=r"there is no fine-tuning job 'sales\.remote\.1'"):
        remote.job("sales/remote/1")
    assert door.ask(door.keys["docs"], "GET", "/v1/files").json() == before
    with pytest.raises(PermissionError, match=r"ODEFORMER_POOL_KEY: the door at .* does not know this key"):
        RemotePool(door.url, "wrong").jobs()
    with pytest.raises(ConnectionError, match="no pool's door answers at"):
        RemotePool(f"http://127.0.0.1:{free_port()}", "wrong").jobs()


def test_the_command_line_speaks_to_the_door(
    door: Door, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(URL, door.url)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match="ODEFORMER_POOL_URL is set and ODEFORMER_POOL_KEY is not"):
        app(["finetune", "list"], standalone_mode=False)
    monkeypatch.setenv(KEY, door.keys["docs"])
    task = a_task(door.folder, "docs", "typed").model_dump(mode="json", exclude_none=True)
    file = door.folder / "typed.yaml"
    file.write_text(yaml.safe_dump(task))

    def said(*words: str) -> str:
        app(["finetune", *words], standalone_mode=False)
        return capsys.readouterr().out

    assert "docs/typed/1 succeeded: accuracy" in said("submit", str(file), "--wait")
    assert "docs/typed/1" in said("show", "typed")
    assert "finished 4" in said("logs", "docs/typed")
    assert said("cancel", "typed") == "docs/typed/1 is succeeded\n"
    assert {job["team"] for job in json.loads(said("list", "--json"))} == {"docs"}
    with pytest.raises(
        ValueError, match="a search does not work through the pool's door: unset ODEFORMER_POOL_URL"
    ):
        said("search", str(file))


def test_the_list_needs_no_ray(door: Door, tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['odeformer', 'finetune', 'list', '--json']\n"
        "from launcher.cli.main import main\n"
        "try: main()\n"
        "finally: print({'ray', 'torch', 'mlflow', 'openai'} & set(sys.modules), file=sys.stderr)"
    )
    environment: dict[str, Any] = {URL: door.url, KEY: door.keys["docs"], "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "set()\n"
    assert isinstance(json.loads(done.stdout), list)
