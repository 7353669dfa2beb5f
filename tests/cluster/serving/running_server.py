"""A server in this process, with its registry, and what it must answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import requests

from cluster import registry
from cluster.serving.server import Server
from odeformer.inference.decoding import FixedDepthModel
from odeformer.inference.generate import generate_text
from odeformer.inference.sampling import Sampling

TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


@dataclass
class Running:
    """A server in this process, with its registry."""

    server: Server
    url: str
    store: str
    base: registry.Version
    adapter: registry.Version
    scratch: Path

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def post(self, content: bytes | dict[str, Any], path: str = "completions") -> requests.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return requests.post(f"{self.url}/v1/{path}", data=body, timeout=60)


def by_generate(running: Running, prompt: str, depth: int, adapter: bool, count: int) -> str:
    """What ``odeformer generate`` makes of it, greedily."""
    name = running.adapter.uri if adapter else running.base.uri
    loaded = registry.load(name, running.store)
    at = FixedDepthModel(loaded.model, depth)
    pieces = generate_text(
        at, loaded.tokenizer, prompt, max_new_tokens=count, sampling=Sampling(temperature=0)
    )
    return "".join(pieces)
