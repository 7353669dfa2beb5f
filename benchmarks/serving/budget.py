"""Milliseconds between the tokens of streams with a budget, and their depths, while the load doubles."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import requests

from benchmarks import bench
from benchmarks.serving.server import DEPTH, URL, body

CLIENTS, ASKED, OVER = 8, 6, 1.5
"""Clients before the load doubles, requests of each in a phase, the budget over what N = D needs before."""
WINDOWS = 30
"""Windows of time of the figure."""


class Token(NamedTuple):
    """A token of a stream as a client saw it."""

    seconds: float
    """When it came."""
    milliseconds: float
    """Since the token before."""
    depth: int


def under_budget(figure: Path) -> dict[str, Any]:
    """95 % of the tokens at N = D, then with a budget at 8, 16 and 8 clients; drawn over time."""
    before = p95(of_clients(CLIENTS))
    budget = OVER * before
    phases, tokens, clients_at, errors = [], [], [], 0
    for clients in (CLIENTS, 2 * CLIENTS, CLIENTS):
        clients_at.append((time.perf_counter(), clients))
        seen = of_clients(clients, latency_ms=budget)
        errors += clients * ASKED - len(seen)
        phases.append({"clients": clients, "p95_ms": p95(seen), "depths": depths_of(seen)})
        tokens += [token for stream in seen for token in stream]
    draw(tokens, clients_at, budget, figure)
    return {"p95_ms_at_depth": before, "budget_ms": budget, "phases": phases, "failed": errors}


def of_clients(clients: int, **settings: Any) -> list[list[Token]]:
    """The tokens of all streams that so many clients ask for, one after another each."""
    with ThreadPoolExecutor(clients) as pool:
        asked = [body("model", n, **settings) for n in range(ASKED * clients)]
        return [stream for stream in pool.map(lambda content: [*streamed(content)], asked) if stream]


def streamed(content: dict[str, Any]) -> Iterator[Token]:
    """The tokens of a stream after the first; none of one that ends with an error."""
    # Scores are asked for, so that a token whose text is held back, as half a character, is an event as well.
    asked = {**content, "stream": True, "logprobs": 0}
    found: list[tuple[float, float]] = []
    last, depth = None, 0
    with requests.post(f"{URL}/v1/completions", json=asked, stream=True, timeout=600) as got:
        for line in got.iter_lines() if got.ok else ():
            if not line.startswith(b"data: {"):
                continue
            now, event = time.perf_counter(), json.loads(line.removeprefix(b"data: "))
            depth = event.get("odeformer", {}).get("depth", depth)
            if not event.get("choices") or not event["choices"][0]["logprobs"]["tokens"]:
                continue  # the reason for the end, or usage
            if last is not None:
                found.append((now, 1e3 * (now - last)))
            last = now
    yield from (Token(seconds, milliseconds, depth) for seconds, milliseconds in found if depth)


def p95(streams: list[list[Token]]) -> float:
    """Milliseconds that 95 % of the tokens stay within."""
    taken = sorted(token.milliseconds for stream in streams for token in stream)
    return taken[int(0.95 * (len(taken) - 1))]


def depths_of(streams: list[list[Token]]) -> dict[str, int]:
    """Number of streams at each depth."""
    return {str(depth): sum(s[0].depth == depth for s in streams) for depth in (DEPTH // 2, DEPTH)}


def draw(tokens: list[Token], clients_at: list[tuple[float, int]], budget: float, path: Path) -> None:
    """Draw the mean depth of the tokens over time, and what 95 % of them stay within."""
    begun = clients_at[0][0]
    width = (max(token.seconds for token in tokens) - begun) / WINDOWS
    windows: dict[int, list[Token]] = {}
    for token in sorted(tokens):
        windows.setdefault(int((token.seconds - begun) / width), []).append(token)
    times = [(number + 0.5) * width for number in windows]
    figure, (above, below) = bench.subplots(2, 1, figsize=(7, 5), sharex=True)
    above.plot(times, [sum(t.depth for t in window) / len(window) for window in windows.values()], "o-")
    above.set_ylabel("mean N of the tokens")
    above.set_ylim(DEPTH / 2 - 0.5, DEPTH + 0.5)
    below.plot(times, [p95([window]) for window in windows.values()], "o-")
    below.axhline(budget, color="tab:red", linestyle="--", label="budget")
    below.set_ylabel("p95 of ms per token")
    below.set_xlabel("seconds")
    below.set_ylim(0)
    below.legend()
    for seconds, clients in clients_at:
        for axes in (above, below):
            axes.axvline(seconds - begun, color="tab:gray", linewidth=1)
            axes.grid(alpha=0.3)
        above.text(seconds - begun, DEPTH + 0.55, f" {clients} clients")
    figure.savefig(path, dpi=140)
