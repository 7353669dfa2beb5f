"""The server under load: tokens per second, depth under a budget, memory over many requests.

    python -m benchmarks.speed.serving --json benchmarks/results/serving.json

An untrained model of width 128 with four adapters is served over HTTP by a process of its own on one thread;
clients are threads here. ``together``: eight clients with four adapters against the same requests one after
another. ``N = D/2`` against ``N = D``: eight clients. ``transformers``: the export of N = D under its
continuous batching, all requests given at once, without HTTP, against the server at eight clients.
``budget``: milliseconds between the tokens of a stream, while the clients double. ``memory``: bytes of the
server's process after a quarter of many requests, and after all of them.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import requests
import torch

from benchmarks import bench
from cluster.registry import Version
from cluster.serving.served import AdapterEntry
from cluster.serving.settings import ServeSettings
from data.tokenizer import train_tokenizer
from odeformer import checkpoint
from odeformer.config import AdapterConfig, BasisConfig, ModelConfig
from odeformer.files.digest import folder_digest
from odeformer.lora import Adapter
from odeformer.model import Odeformer

PORT, DEPTH, NEW_TOKENS, CLIENTS, ADAPTERS = 20123, 8, 64, 8, 4
URL = f"http://127.0.0.1:{PORT}"


def main() -> None:
    """Measure everything, print and write it."""
    parser = bench.parser(__doc__, rounds=3)
    parser.add_argument("--requests", type=int, default=2000, help="requests of the memory measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as process:
        names = [f"adapter-{number}" for number in range(ADAPTERS)]
        mixed = [body(names[n % ADAPTERS], n) for n in range(2 * CLIENTS)]
        base = [body("model", n) for n in range(2 * CLIENTS)]
        shallow = [body(f"model@{DEPTH // 2}", n) for n in range(2 * CLIENTS)]
        rates: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            for name, bodies, clients in (
                ("together", mixed, CLIENTS),
                ("one after another", mixed, 1),
                ("N = D", base, CLIENTS),
                ("N = D/2", shallow, CLIENTS),
            ):
                rates.setdefault(name, []).append(tokens_per_second(bodies, clients))
            rates.setdefault("transformers", []).append(of_transformers(Path(folder), 2 * CLIENTS))
        result = {
            "tokens_per_second": {name: statistics.median(measured) for name, measured in rates.items()},
            "ratio_together": bench.median_ratio(rates["together"], rates["one after another"]),
            "ratio_half_depth": bench.median_ratio(rates["N = D/2"], rates["N = D"]),
            "ratio_transformers": bench.median_ratio(rates["N = D"], rates["transformers"]),
            "budget": under_budget(),
            "memory": memory(process, arguments.requests),
            "clients": CLIENTS,
            "new_tokens": NEW_TOKENS,
            "load": os.getloadavg()[0],
            **bench.stamp("torch", "transformers", note="1 thread"),
        }
    bench.save(arguments.json, result)
    bench.print_row(result)


def body(model: str, number: int, **settings: Any) -> dict[str, Any]:
    """A request for new tokens after a prompt of some tokens."""
    prompt = [(7 * number + i) % 300 for i in range(8 + number % 5)]
    return {"model": model, "prompt": prompt, "max_tokens": NEW_TOKENS, "seed": number, **settings}


def ask(content: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request."""
    answer = requests.post(f"{URL}/v1/completions", json=content, timeout=600)
    answer.raise_for_status()
    return dict(answer.json())


def tokens_per_second(bodies: Sequence[dict[str, Any]], clients: int) -> float:
    """New tokens per second of all requests, from as many clients at a time."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, bodies))
    return sum(answer["usage"]["completion_tokens"] for answer in answers) / (time.perf_counter() - started)


def under_budget() -> dict[str, Any]:
    """Milliseconds per token and depths of streams with a budget, while the number of clients doubles."""
    alone = statistics.median(ask(body("model", n))["odeformer"]["milliseconds_per_token"] for n in range(3))
    budget = 4 * alone
    phases = {}
    for clients in (CLIENTS, 2 * CLIENTS, CLIENTS):
        with ThreadPoolExecutor(clients) as pool:
            streams = list(
                pool.map(streamed, (body("model", n, latency_ms=budget) for n in range(4 * clients)))
            )
        gaps = sorted(gap for stream in streams for gap in stream["gaps"])
        phases[f"{len(phases)}: {clients} clients"] = {
            "p95_ms": 1e3 * gaps[int(0.95 * len(gaps))],
            "depths": {str(n): sum(s["depth"] == n for s in streams) for n in (DEPTH // 2, DEPTH)},
        }
    return {"budget_ms": budget, "phases": phases}


def streamed(content: dict[str, Any]) -> dict[str, Any]:
    """Seconds between the events of a stream, and its depth."""
    gaps, depth, last = [], None, None
    with requests.post(
        f"{URL}/v1/completions", json={**content, "stream": True}, stream=True, timeout=600
    ) as got:
        got.raise_for_status()
        for line in got.iter_lines():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            depth = event.get("odeformer", {}).get("depth", depth)
            now = time.perf_counter()
            if last is not None and event["choices"]:
                gaps.append(now - last)
            last = now
    return {"gaps": gaps, "depth": depth}


def memory(process: psutil.Process, count: int) -> dict[str, int]:
    """Resident bytes of the server after a quarter of the requests and after all of them."""
    sizes = {}
    for many in (count // 4, count - count // 4):
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(ask, ({**body("model", n), "max_tokens": 4} for n in range(many))))
        sizes[str(many if not sizes else count)] = process.memory_info().rss
    return sizes


@contextmanager
def serving(folder: Path) -> Iterator[psutil.Process]:
    """A server of a fresh model with its adapters, in a process of its own."""
    torch.manual_seed(0)
    train_tokenizer([Path(__file__).read_text(encoding="utf-8")], 300).save(str(folder / "tokenizer.json"))
    config = ModelConfig(
        width=128, heads=4, depth=DEPTH, basis=BasisConfig(size=DEPTH // 2), vocabulary_size=2048,
        context_length=256,
    )  # fmt: skip
    model = Odeformer(config)
    checkpoint.save(model.state_dict(), config, "euler", folder / "tokenizer.json", folder / "model")
    for number in range(ADAPTERS):
        adapter = Adapter(AdapterConfig(rank=8), config)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.normal_(std=0.02)
        base = {"name": "model", "version": "1", "digest": folder_digest(folder / "model")}
        checkpoint.save_adapter(adapter, base, folder / f"adapter-{number}")
    child = get_context("spawn").Process(target=serve, args=(folder,), daemon=True)
    child.start()
    try:
        until(lambda: requests.get(f"{URL}/health", timeout=5).ok)
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        child.join()


def serve(folder: Path) -> None:
    """The server's process."""
    import uvicorn

    from cluster.serving.api import make_app
    from cluster.serving.server import Server

    torch.set_num_threads(1)
    settings = ServeSettings(
        model=str(folder / "model"), depths=(DEPTH // 2, DEPTH), most_rows=16, most_streams=1000
    )
    server = Server(settings)
    # No registry here: the adapters are read from their folders.
    for number in range(ADAPTERS):
        name = f"adapter-{number}"
        version = Version(name, "1", (), {}, str(folder / name))
        server.current.entries[name] = AdapterEntry(name, version)
        own = checkpoint.load(folder / "model")
        checkpoint.load_adapter(own, folder / name, folder / "model")
        assert own.hypernetwork.adapter is not None
        server.current.keep(version, own.hypernetwork.adapter.requires_grad_(False))
    uvicorn.run(make_app(server), port=PORT, log_level="error")


def until(look: Callable[[], bool]) -> None:
    """Wait for a server that starts."""
    for _ in range(600):
        try:
            if look():
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.2)
    raise SystemExit("the server did not start")


def of_transformers(folder: Path, count: int) -> float:
    """New tokens per second of ``transformers`` on the export of N = D, for as many requests at once."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    export = folder / "export"
    if not export.exists():
        from data.tokenizer import END_OF_TEXT
        from odeformer.interop.hf.exporting import export as write_export

        model_folder = folder / "model"
        loaded = checkpoint.load(model_folder)
        write_export(loaded, model_folder / "tokenizer.json", DEPTH, "", export, END_OF_TEXT)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(export, attn_implementation="sdpa").eval()
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0)
    prompts = [body("model", n)["prompt"] for n in range(count)]
    started = time.perf_counter()
    outputs = model.generate_batch(prompts, generation_config=config)
    seconds = time.perf_counter() - started
    return sum(len(output.generated_tokens) for output in outputs.values()) / seconds


if __name__ == "__main__":
    main()
