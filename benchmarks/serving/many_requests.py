"""What is left after many requests of all kinds to ``odeformer serve``: memory, files, processes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import psutil
import requests

from benchmarks.serving.server import DEPTH, PORT, URL, body, until

CLIENTS, NEW_TOKENS = 8, 4


def many_requests(folder: Path, count: int) -> dict[str, Any]:
    """Memory and open files after a quarter of the requests and after all, and what is left in the end."""
    command = [sys.executable, "-c", "from launcher.cli.main import main; main()"]
    options = ["serve", str(folder / "model"), "--depths", f"{DEPTH // 2},{DEPTH}", "--port", str(PORT)]
    scratch = folder / "temporary"
    scratch.mkdir()
    environment = {**psutil.Process().environ(), "TMPDIR": str(scratch)}
    with subprocess.Popen([*command, *options], env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            until(lambda: requests.get(f"{URL}/health", timeout=5).ok)
            [replica] = [p for p in family(server) if "ServeReplica" in " ".join(p.cmdline())]
            early = 500 * count // 2000
            sizes = {}
            for first, last in ((0, early), (early, count)):
                with ThreadPoolExecutor(CLIENTS) as pool:
                    errors = sum(pool.map(asked_wrongly_answered, range(first, last)))
                sizes[str(last)] = {
                    "replica_bytes": replica.memory_info().rss,
                    "replica_files": replica.num_fds(),
                    "replica_threads": replica.num_threads(),
                    "all_bytes": sum(process.memory_info().rss for process in family(server)),
                    "processes": len(family(server)),
                    "errors": errors,
                }
            started = family(server)
            named = " ".join(word for process in started for word in process.cmdline())
            folders = [scratch, *map(Path, {*re.findall(r"/tmp/odf-\w{8}", named)})]  # the second is Ray's
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(120)
    _, left = psutil.wait_procs(started, timeout=60)
    files = [path for place in folders for path in place.rglob("*") if path.is_file()]
    return {"after": sizes, "processes_left": len(left), "files_left": len(files)}


def family(server: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The server's processes."""
    return psutil.Process(server.pid).children(recursive=True)


def asked_wrongly_answered(number: int) -> bool:
    """Ask something, of five kinds by turns; whether the answer is not what it must be."""
    asked = {**body("model", number), "max_tokens": NEW_TOKENS}
    with openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=600) as client:
        kind = number % 5
        if kind == 0:
            answer = client.completions.create(**asked)
            ended = answer.choices[0].finish_reason == "stop"  # the end of the text was drawn
            return answer.usage.completion_tokens != NEW_TOKENS and not ended
        if kind == 1:
            asked |= {"model": f"model@{DEPTH // 2}"}
            answer = client.completions.create(**asked, echo=True, logprobs=2)
            scored, new = len(answer.choices[0].logprobs.tokens), answer.usage.completion_tokens
            return scored != new + len(asked["prompt"])
        if kind == 2:
            return not [*client.completions.create(**asked, stream=True)]
        if kind == 3:  # a client that vanishes
            with client.completions.create(**{**asked, "max_tokens": 200}, logprobs=0, stream=True) as stream:
                next(iter(stream))
            return False
        with suppress(openai.NotFoundError):
            client.completions.create(**{**asked, "model": "other"})
            return True
        return False
