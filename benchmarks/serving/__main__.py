"""The server under load: tokens per second, depth under a budget, memory over many requests.

    python -m benchmarks.serving --json benchmarks/results/serving.json [--only PART ...]

An untrained model of width 128 with four adapters is served over HTTP by a process of its own on one thread;
clients are threads here. Parts:

- ``rates``: eight clients with four adapters against the same requests one after another; N = D/2 against
  N = D at eight clients; the export of N = D under the continuous batching of ``transformers``, all requests
  given at once, without HTTP, against the server at eight clients.
- ``budget``: milliseconds between the tokens of a stream, and its depth, while the clients double; a figure
  is drawn beside the JSON.
- ``requests``: memory, open files and processes of the command ``odeformer serve`` after a quarter of many
  requests and after all of them, and what is left when it has ended.

Parts that are not run keep their results.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks import bench
from benchmarks.serving.budget import CLIENTS, under_budget
from benchmarks.serving.many_requests import many_requests
from benchmarks.serving.server import ADAPTERS, DEPTH, NEW_TOKENS, ask, body, serving, write_models
from odeformer import checkpoint

PARTS = ("rates", "budget", "requests")


def main() -> None:
    """Measure the parts, print and write them."""
    parser = bench.parser(__doc__, rounds=3)
    parser.add_argument(
        "--only", nargs="*", choices=PARTS, default=PARTS, metavar="PART", help="parts to run"
    )
    parser.add_argument("--requests", type=int, default=2000, help="requests of the part of that name")
    arguments = parser.parse_args()
    path: Path = arguments.json
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        for part in arguments.only:
            load = os.getloadavg()[0]
            if part == "requests":
                measured = many_requests(folder, arguments.requests)
            else:
                with serving(folder):
                    measured = (
                        rates(folder, arguments.rounds)
                        if part == "rates"
                        else under_budget(path.with_suffix(".png"))
                    )
            stamp = bench.stamp("torch", "transformers", note="1 thread")
            result[part] = {**measured, "load_before": load, **stamp}
            bench.save(path, result)
            bench.print_row(result[part])


def rates(folder: Path, rounds: int) -> dict[str, Any]:
    """Tokens per second of each way, and their ratios in the same round."""
    names = [f"adapter-{number}" for number in range(ADAPTERS)]
    mixed = [body(names[n % ADAPTERS], n) for n in range(2 * CLIENTS)]
    base = [body("model", n) for n in range(2 * CLIENTS)]
    shallow = [body(f"model@{DEPTH // 2}", n) for n in range(2 * CLIENTS)]
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, bodies, clients in (
            ("together", mixed, CLIENTS),
            ("one after another", mixed, 1),
            ("N = D", base, CLIENTS),
            ("N = D/2", shallow, CLIENTS),
        ):
            taken.setdefault(name, []).append(tokens_per_second(bodies, clients))
        taken.setdefault("transformers", []).append(of_transformers(folder, 2 * CLIENTS))
    return {
        "tokens_per_second": {name: statistics.median(measured) for name, measured in taken.items()},
        "ratio_together": bench.median_ratio(taken["together"], taken["one after another"]),
        "ratio_half_depth": bench.median_ratio(taken["N = D/2"], taken["N = D"]),
        "ratio_transformers": bench.median_ratio(taken["N = D"], taken["transformers"]),
        "clients": CLIENTS,
        "new_tokens": NEW_TOKENS,
    }


def tokens_per_second(bodies: Sequence[dict[str, Any]], clients: int) -> float:
    """New tokens per second of all requests, from as many clients at a time."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, bodies))
    return sum(answer["usage"]["completion_tokens"] for answer in answers) / (time.perf_counter() - started)


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
