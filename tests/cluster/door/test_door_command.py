"""``odeformer pool door`` on Ray Serve: clients whose door is killed, and models served at the same port."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import openai
import psutil
import pytest
import requests
from doors import LINES, SETTINGS, TEAMS
from heads import Head, head_node
from ports import free_port
from small_tasks import base_folder, register_base
from waiting import wait_for

CLIENTS, JOBS = 20, 40


def replicas(session: Path) -> list[psutil.Process]:
    """The door's processes on the cluster whose session is in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "ServeReplica:odeformer-" in " ".join(process.cmdline()):
                parent = process.parent()
                if parent is not None and str(session) in " ".join(parent.cmdline()):
                    found.append(process)
    return found


def status(url: str) -> int:
    with suppress(requests.RequestException):
        return requests.get(url, timeout=30).status_code
    return 0


def good(head: Head, *arguments: str) -> str:
    code, out, err = head(*arguments)
    assert code == 0, err
    return out


@pytest.mark.slow
def test_no_job_is_lost_or_doubled_when_the_door_is_killed_twice(tmp_path: Path) -> None:
    uri, port = register_base(tmp_path), free_port()
    url = f"http://127.0.0.1:{port}"
    with head_node({}, dashboard=False) as head:  # no slot: what is submitted waits
        good(head, "pool", "start", "--set", f"dir={tmp_path}/pool", "--set", f"tracking_uri={uri}")
        keys = {team: json.loads(good(head, "pool", "keys", "add", team, "--json"))["key"] for team in TEAMS}
        door = head.start("pool", "door", "--port", str(port))
        try:
            wait_for(lambda: status(f"{url}/v1/fine_tuning/jobs") == 401 or door.poll() is not None)
            assert door.poll() is None, door.communicate()

            def submit(number: int) -> str:
                # OpenAI's client repeats requests so often at most: a busy machine starts a process slowly.
                client = openai.OpenAI(
                    base_url=f"{url}/v1", api_key=keys[TEAMS[number % len(TEAMS)]], max_retries=60
                )
                file = client.files.create(file=("train.jsonl", LINES), purpose="fine-tune").id
                jobs = client.fine_tuning.jobs
                made = jobs.create(
                    model="base", training_file=file, validation_file=file, suffix=f"job-{number}",
                    extra_body={"odeformer": SETTINGS},
                )  # fmt: skip
                return made.id

            def known() -> list[str]:
                shown = json.loads(good(head, "finetune", "list", "--json"))
                return [str(job["id"]).replace("/", ".") for job in shown]

            killed: set[psutil.Process] = set()

            def new() -> set[psutil.Process]:
                return set(replicas(head.folder)) - killed

            with ThreadPoolExecutor(CLIENTS) as clients:
                made = [clients.submit(submit, number) for number in range(JOBS)]
                for enough in (JOBS // 8, JOBS // 2):
                    wait_for(lambda enough=enough: sum(job.done() for job in made) >= enough)  # type: ignore[misc]
                    running = wait_for(new)
                    for process in running:
                        process.kill()
                    killed |= running
                ids = [job.result() for job in made]
            assert len(set(ids)) == JOBS
            assert sorted(known()) == sorted(ids)
            assert len(killed) >= 2

            # The page, through Ray Serve's proxy.
            wait_for(lambda: status(f"{url}/pool") == 401)
            entered = requests.post(
                f"{url}/pool/sign-in", data={"key": keys["docs"]}, headers={"Origin": url}, timeout=60
            )
            assert (entered.status_code, entered.url) == (200, f"{url}/pool")
            assert f'<span class="count">{JOBS // len(TEAMS)}</span>' in entered.text
            assert requests.get(f"{url}/pool/static/live.js", timeout=60).ok

            # The command line of somebody who has no Ray.
            outside = Head(head.address, {**head.environment, "RAY_ADDRESS": "nowhere:1"}, tmp_path, "")
            outside.environment.update(ODEFORMER_POOL_URL=url, ODEFORMER_POOL_KEY=keys["docs"])
            listed = json.loads(good(outside, "finetune", "list", "--json"))
            assert sorted(job["id"] for job in listed) == sorted(
                given.replace(".", "/") for given in ids if given.startswith("docs.")
            )
            assert good(outside, "finetune", "cancel", listed[0]["id"]).endswith("is cancelled\n")
            did = [entry["action"] for entry in json.loads(good(head, "pool", "audit", "--json"))]
            assert (did.count("submitted"), did.count("cancelled")) == (JOBS, 1)

            # At the same port, a model.
            folder = base_folder(tmp_path, "served")
            at = ("--address", head.of_drivers, "--port", str(port))
            elsewhere = head("serve", str(folder), "--address", head.of_drivers, "--port", str(free_port()))
            assert elsewhere[0] == 2
            assert f"listens at 127.0.0.1:{port} already" in elsewhere[2]
            served = head.start("serve", str(folder), *at)
            try:
                wait_for(lambda: status(f"{url}/health") == 200 or served.poll() is not None)
                client = openai.OpenAI(base_url=f"{url}/v1", api_key=keys["docs"], max_retries=20)
                assert client.completions.create(model="served", prompt="red", max_tokens=2).usage is not None
                assert len(list(client.fine_tuning.jobs.list(limit=100))) == JOBS // len(TEAMS)
                served.send_signal(signal.SIGTERM)
                assert served.wait() == 0
            finally:
                served.kill()
            assert len(list(client.fine_tuning.jobs.list(limit=100))) == JOBS // len(TEAMS)
            door.send_signal(signal.SIGTERM)
            assert door.wait() == 0
            wait_for(lambda: not replicas(head.folder))
        finally:
            door.kill()
    assert "Traceback" not in "".join(door.communicate())
