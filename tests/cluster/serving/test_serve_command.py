"""``odeformer serve`` on Ray Serve: the whole command, and a replica that is killed."""

from __future__ import annotations

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
from stored_models import checkpoint_folder
from waiting import wait_for

from data.tokenizer import load_tokenizer
from odeformer import checkpoint
from odeformer.inference.decoding import FixedDepthModel
from odeformer.inference.generate import generate_text
from odeformer.inference.sampling import Sampling


def is_well(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(f"{url}/health", timeout=5).ok
    return False


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
