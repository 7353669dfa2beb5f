"""``odeformer serve`` on Ray Serve: the whole command, and a replica that is killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import openai
import psutil
import pytest
import requests
from ports import free_port
from prometheus_client.parser import text_string_to_metric_families
from stored_models import checkpoint_folder
from waiting import wait_for

from data.tokenizer import load_tokenizer
from odeformer import checkpoint
from odeformer.inference.decoding import FixedDepthModel
from odeformer.inference.generate import generate_text
from odeformer.inference.sampling import Sampling

OWN_LABELS = {"depth", "budget", "cause"}


def is_well(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(f"{url}/health", timeout=5).ok
    return False


def metrics(said: str) -> dict[str, float]:
    """The server's own metrics in Prometheus' text, by name and labels of ours."""
    addresses = re.findall(r"^metrics: (\S+)$", said, re.MULTILINE)
    text = requests.get(addresses[0], timeout=60).text if addresses else ""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            own = [f"{name}={value}" for name, value in sample.labels.items() if name in OWN_LABELS]
            key = ",".join([sample.name, *sorted(own)])
            if sample.name.startswith("ray_odeformer"):
                found[key] = found.get(key, 0) + sample.value
    return found


def replicas(command: psutil.Process) -> list[psutil.Process]:
    return [p for p in command.children(recursive=True) if "ServeReplica" in " ".join(p.cmdline())]


@pytest.mark.slow
def test_the_command_serves_survives_a_killed_replica_and_ends(tmp_path: Path) -> None:
    folder, port = checkpoint_folder(tmp_path), free_port()
    url = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-c", "from launcher.cli.main import main; main()", "serve", str(folder)]
    with (tmp_path / "said").open("w") as said:
        command = subprocess.Popen(
            [*words, "--depths", "2,4", "--port", str(port)], stdout=said, stderr=subprocess.STDOUT
        )
    try:
        wait_for(lambda: is_well(url) or command.poll() is not None, (tmp_path / "said").read_text)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        expected = "".join(
            generate_text(
                FixedDepthModel(checkpoint.load(folder), 2), load_tokenizer(folder), "some",
                max_new_tokens=8, sampling=Sampling(temperature=0),
            )
        )  # fmt: skip
        name = folder.name

        def answered() -> str:
            answer = client.completions.create(model=f"{name}@2", prompt="some", max_tokens=8, temperature=0)
            return answer.choices[0].text

        assert answered() == expected
        answer = client.completions.create(
            model=name, prompt="some", max_tokens=8, extra_body={"latency_ms": 1e-3}
        )
        assert answer.model_extra["odeformer"]["depth"] == 2  # type: ignore[index]
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="other", prompt="some")

        # Ray hands them on every ten seconds.
        def handed_on() -> dict[str, float] | None:
            found = metrics((tmp_path / "said").read_text())
            last = ("refused_requests_total,cause=model_not_found", "running_requests,depth=4", "adapters")
            return found if all(f"ray_odeformer_{name}" in found for name in last) else None

        shown = wait_for(handed_on)
        assert shown["ray_odeformer_tokens_total,budget=none,depth=2"] == 8 + 1
        assert shown["ray_odeformer_tokens_total,budget=missed,depth=2"] == 7
        assert shown["ray_odeformer_token_milliseconds_count,depth=2"] == 14
        assert shown["ray_odeformer_refused_requests_total,cause=model_not_found"] == 1
        page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
        for metric in re.findall(r"`(ray_odeformer\w+)`", page):
            assert any(name.startswith(metric) for name in shown), metric

        [replica] = wait_for(lambda: replicas(psutil.Process(command.pid)))
        stream = client.completions.create(
            model=name, prompt="a", max_tokens=14, n=16, stream=True, temperature=0
        )
        next(iter(stream))
        replica.send_signal(signal.SIGSTOP)  # nothing more comes
        replica.kill()
        with pytest.raises(Exception, match=r".+"):  # the client hears of it
            list(stream)
        wait_for(lambda: not is_well(url) or replicas(psutil.Process(command.pid)) not in ([], [replica]))
        wait_for(lambda: is_well(url))
        assert answered() == expected

        started = psutil.Process(command.pid).children(recursive=True)
        command.send_signal(signal.SIGTERM)
        assert command.wait() == 0
        wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in started))
    finally:
        command.kill()
        command.wait()
    shown = (tmp_path / "said").read_text()
    assert f"http://127.0.0.1:{port}/v1" in shown
    assert "Traceback" not in shown
