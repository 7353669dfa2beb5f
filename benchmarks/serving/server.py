"""The server of :mod:`benchmarks.serving`: a fresh model in a process of its own, and requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import requests
import torch

from cluster.registry import Version
from cluster.serving.served import AdapterEntry
from cluster.serving.settings import ServeSettings
from data.tokenizer import train_tokenizer
from odeformer import checkpoint
from odeformer.config import AdapterConfig, BasisConfig, ModelConfig
from odeformer.files.digest import folder_digest
from odeformer.lora import Adapter
from odeformer.model import Odeformer

PORT, DEPTH, NEW_TOKENS, ADAPTERS = 20123, 8, 64, 4
URL = f"http://127.0.0.1:{PORT}"


def body(model: str, number: int, **settings: Any) -> dict[str, Any]:
    """A request for new tokens after a prompt of some tokens."""
    prompt = [(7 * number + i) % 300 for i in range(8 + number % 5)]
    return {"model": model, "prompt": prompt, "max_tokens": NEW_TOKENS, "seed": number, **settings}


def ask(content: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request."""
    answer = requests.post(f"{URL}/v1/completions", json=content, timeout=600)
    answer.raise_for_status()
    return dict(answer.json())


def write_models(folder: Path) -> None:
    """Write an untrained model of width 128 and its adapters."""
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


@contextmanager
def serving(folder: Path) -> Iterator[psutil.Process]:
    """A server of the folder's models on one thread, in a process of its own."""
    child = get_context("spawn").Process(target=_serve, args=(folder,), daemon=True)
    child.start()
    try:
        until(lambda: requests.get(f"{URL}/health", timeout=5).ok)
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        child.join()


def _serve(folder: Path) -> None:
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
    for _ in range(3000):
        try:
            if look():
                return
        except requests.RequestException:
            pass
        time.sleep(0.2)
    raise SystemExit("the server did not start")
