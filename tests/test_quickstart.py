"""The quick start itself, at its full length, and what a team then does with its base from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from heads import Head, head_node
from openai.types.fine_tuning import FineTuningJobEvent
from ports import free_port
from waiting import wait_for

ODEFORMER = Path(sys.executable).parent / "odeformer"

pytestmark = pytest.mark.slow


class QuickStart(NamedTuple):
    """A quick start that has ended."""

    code: int
    output: str
    folder: Path


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> QuickStart:
    folder = tmp_path_factory.mktemp("quickstart")
    done = subprocess.run([ODEFORMER, "quickstart"], cwd=folder, capture_output=True, text=True)
    return QuickStart(done.returncode, done.stdout + done.stderr, folder)


def check(folder: Path) -> None:
    summary = json.loads((folder / "runs" / "quickstart" / "summary.json").read_text())
    assert summary["validation_loss_after"] < summary["validation_loss_before"] - 2
    assert summary["bits_per_byte"] < summary["gzip_bits_per_byte"]
    assert set(summary["depth_losses"]) == {"4", "6", "8", "16"}
    spread = max(summary["depth_losses"].values()) - min(summary["depth_losses"].values())
    assert spread < 0.1, "one checkpoint should serve all these depths"
    assert summary["parameters"] == pytest.approx(summary["ordinary_parameters"], rel=0.02), "K = D"
    assert summary["peak_bytes"]["checkpoint"] < 0.5 * summary["peak_bytes"]["direct"]
    docs, triage = summary["finetunes"]
    assert (docs["team"], docs["metric"], triage["team"], triage["metric"]) == (
        "docs",
        "loss",
        "triage",
        "accuracy",
    )
    assert docs["after"] < docs["before"]
    assert triage["after"] > triage["before"]
    assert {docs["base_version"], triage["base_version"]} == {summary["registered_version"]} == {"1"}


def test_it_says_what_it_does_and_what_came_out(quickstart: QuickStart) -> None:
    assert quickstart.code == 0, quickstart.output
    check(quickstart.folder)
    for shown in ("models:/tiny@champion", "bits/byte", "gzip", "N = 16", "mlflow ui", "odeformer generate"):
        assert shown in quickstart.output


def good(head: Head, *arguments: str) -> str:
    code, out, err = head(*arguments)
    assert code == 0, err
    return out


def is_there(ask: Callable[[], object]) -> bool:
    """Whether what is asked for is there; Ray Serve itself answers for what is still to come."""
    with suppress(openai.NotFoundError, openai.APIConnectionError):
        ask()
        return True
    return False


def test_a_team_adapts_its_base_and_uses_the_adapter_with_an_openai_client_alone(
    quickstart: QuickStart, tmp_path: Path
) -> None:
    uri, port = f"sqlite:///{quickstart.folder}/runs/mlflow.db", free_port()
    data = quickstart.folder / "runs/quickstart/tasks"
    with head_node({"finetune": 1}, dashboard=False) as head:
        head.environment["MLFLOW_TRACKING_URI"] = uri
        good(head, "pool", "start", "--set", f"dir={tmp_path}/pool")
        key = json.loads(good(head, "pool", "keys", "add", "docs", "--json"))["key"]
        door = head.start("pool", "door", "--port", str(port))
        served = None
        try:
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=60)
            wait_for(lambda: is_there(client.files.list) and is_there(client.fine_tuning.jobs.list))
            files = {
                split: client.files.create(file=data / f"docs-{split}.jsonl", purpose="fine-tune").id
                for split in ("train", "validation")
            }
            settings = {"train": {"steps": 60, "global_batch": 8, "learning_rate": 5e-3}, "depth": 4}
            job = client.fine_tuning.jobs.create(
                model="tiny", training_file=files["train"], validation_file=files["validation"],
                suffix="by-http", extra_body={"odeformer": settings},
            )  # fmt: skip
            events = client.get(
                f"/fine_tuning/jobs/{job.id}/events", options={"params": {"stream": True}},
                cast_to=FineTuningJobEvent, stream=True, stream_cls=openai.Stream[FineTuningJobEvent],
            )  # fmt: skip
            followed = list(events)
            losses = [event.data["loss"] for event in followed if event.message.startswith("step ")]  # type: ignore[index]
            assert (len(losses), followed[-1].message) == (60, "succeeded")
            assert sum(losses[-10:]) < sum(losses[:10])
            done = client.fine_tuning.jobs.retrieve(job.id)
            name = "tiny--docs--by-http"
            assert (done.status, done.fine_tuned_model) == ("succeeded", name)

            served = head.start(
                "serve",
                "models:/tiny@champion",
                "--all-adapters",
                "--address",
                head.of_drivers,
                "--port",
                str(port),
            )
            prompt = json.loads((data / "docs-validation.jsonl").read_text().splitlines()[0])["prompt"]
            asked: dict[str, Any] = {"prompt": prompt, "max_tokens": 16, "temperature": 0}

            def is_served() -> bool:
                assert served.poll() is None, served.communicate()
                return is_there(lambda: client.models.retrieve(name))

            wait_for(is_served)
            answer = client.completions.create(model=f"{name}@4", **asked)
            about: dict[str, Any] = answer.model_extra["odeformer"]  # type: ignore[index]
            assert (about["adapter"], about["depth"]) == (f"models:/{name}/1", 4)
            other = client.completions.create(model="tiny@4", **asked)
            assert answer.choices[0].text != other.choices[0].text, "the adapter has learned something"
        finally:
            door.kill()
            if served is not None:
                served.kill()
