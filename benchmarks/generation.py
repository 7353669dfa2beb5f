"""Decoding: tokens per second against ``transformers``, and against plain decoding with a shallow draft.

    python -m benchmarks.generation --json OUT [--model DIR --deep N --shallow N]

``rows``: a model of each width at N = D, and its exported checkpoint under ``generate`` of ``transformers``,
greedy, the same prompts, in turn in one process; medians of the rounds' ratios. ``bandwidth``: what reading
all weights once for each token would allow, at the rate at which this machine reads memory.
``speculative``: a trained checkpoint at its deep N, with and without guesses at the shallow one; 100 prompts
of the standard library, whose greedy texts are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import odeformer
from data.tokenizer import load_tokenizer
from launcher.quickstart.standard_library import sources
from odeformer.config import BasisConfig, ModelConfig
from odeformer.inference.decoding import FixedDepthModel
from odeformer.inference.generate import generate
from odeformer.inference.sampling import Sampling
from odeformer.inference.speculative import Acceptance, speculate
from odeformer.interop import materialise
from odeformer.interop.hf.architectures import architecture_for
from odeformer.model import Odeformer, SolveOptions

GREEDY = Sampling(temperature=0)
SHAPES = ({"width": 256, "heads": 4, "depth": 8}, {"width": 768, "heads": 12, "depth": 12})
BATCHES = (1, 8)
PROMPT = 32


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a trained checkpoint, for speculation")
    parser.add_argument("--deep", type=int, default=16)
    parser.add_argument("--shallow", type=int, default=4)
    parser.add_argument("--ahead", type=int, default=4, help="tokens guessed before they are checked")
    parser.add_argument("--prompts", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    content: dict[str, Any] = {"rows": [], "speculative": None}
    if arguments.json.exists():
        content = json.loads(arguments.json.read_text())
    there = {(row["width"], row["batch"]) for row in content["rows"]}
    rate = bandwidth()
    for shape in SHAPES:
        for batch in BATCHES:
            if (shape["width"], batch) not in there:
                content["rows"].append(
                    against_transformers(shape, batch, arguments.new_tokens, arguments.rounds, rate)
                )
                print(line(content["rows"][-1]), flush=True)
    if arguments.model is not None:
        content["speculative"] = speculation(arguments)
        print(content["speculative"])
    content["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, 1 thread"
    content["date"] = time.strftime("%Y-%m-%d")
    arguments.json.write_text(json.dumps(content, indent=1) + "\n")


def against_transformers(
    shape: dict[str, int], batch: int, new_tokens: int, rounds: int, rate: float
) -> dict[str, Any]:
    """One row: ours and theirs on the same weights and prompts."""
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            **shape,
            "basis": BasisConfig(size=shape["depth"] // 2),
            "vocabulary_size": 2048,
            "context_length": PROMPT + new_tokens,
        }
    )
    model = Odeformer(config).eval()
    at, theirs = FixedDepthModel(model), transformers_model(model)
    prompts = torch.randint(2048, (batch, PROMPT))
    written: dict[str, Any] = {}

    def ours_writes() -> None:
        steps = generate(at, prompts.tolist(), max_new_tokens=new_tokens, sampling=GREEDY)
        written["ours"] = torch.tensor(list(steps)).T

    def theirs_writes() -> None:
        out = theirs.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        written["theirs"] = out[:, PROMPT:]

    seconds = in_turn({"ours": ours_writes, "theirs": theirs_writes}, rounds)
    tokens = batch * new_tokens
    read = 4 * (sum(w.numel() for w in materialise(model).layers.values()) + config.width * 2048)
    return {
        **shape,
        "batch": batch,
        "new_tokens": new_tokens,
        "dtype": "fp32",
        "tokens_per_second": tokens / statistics.median(seconds["ours"]),
        "transformers_tokens_per_second": tokens / statistics.median(seconds["theirs"]),
        "bandwidth_tokens_per_second": batch * rate / read,
        "ratio": statistics.median(b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)),
        "same_text": float((written["ours"] == written["theirs"]).float().mean()),
    }


def transformers_model(model: Odeformer) -> Any:
    """The model at N = D as ``transformers`` has it."""
    from safetensors.torch import save_file

    from odeformer.interop.hf.exporting import load_exported

    ordinary = materialise(model)
    architecture = architecture_for(ordinary.config, ordinary.solver)
    with tempfile.TemporaryDirectory() as folder:
        architecture.to_config(ordinary).to_json_file(Path(folder) / "config.json", use_diff=False)
        save_file(
            architecture.to_state(ordinary), Path(folder) / "model.safetensors", metadata={"format": "pt"}
        )
        return load_exported(Path(folder))


def speculation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Plain and speculative decoding of a trained checkpoint, and whether they write the same."""
    model = odeformer.load(arguments.model)
    model.options = SolveOptions(model.config.default_solver)
    deep, shallow = FixedDepthModel(model, arguments.deep), FixedDepthModel(model, arguments.shallow)
    context = model.config.context_length or 256
    new_tokens = min(128, context - PROMPT)
    prompts = standard_prompts(arguments.model, arguments.prompts)
    texts: dict[str, list[list[int]]] = {"plain": [], "speculative": []}
    counts = Acceptance()

    def plain(prompt: Sequence[int]) -> list[int]:
        steps = generate(deep, [prompt], max_new_tokens=new_tokens, sampling=GREEDY)
        return [token for [token] in steps if token is not None]

    def speculative(prompt: Sequence[int]) -> list[int]:
        return list(
            speculate(
                deep,
                shallow,
                prompt,
                ahead=arguments.ahead,
                max_new_tokens=new_tokens,
                sampling=GREEDY,
                acceptance=counts,
            )
        )

    seconds: dict[str, list[float]] = {name: [] for name in texts}
    plain(prompts[0]), speculative(prompts[0])
    counts.guessed = counts.kept = 0
    for prompt in prompts:
        for name, write in (("plain", plain), ("speculative", speculative)):
            started = time.perf_counter()
            texts[name].append(write(prompt))
            seconds[name].append(time.perf_counter() - started)
    tokens = len(prompts) * new_tokens
    return {
        "width": model.config.width,
        "depth": model.config.depth,
        "deep": arguments.deep,
        "shallow": arguments.shallow,
        "ahead": arguments.ahead,
        "prompts": len(prompts),
        "new_tokens": new_tokens,
        "acceptance": counts.rate,
        "tokens_per_second": tokens / sum(seconds["speculative"]),
        "plain_tokens_per_second": tokens / sum(seconds["plain"]),
        "ratio": statistics.median(
            a / b for a, b in zip(seconds["plain"], seconds["speculative"], strict=True)
        ),
        "same_texts": sum(a == b for a, b in zip(texts["plain"], texts["speculative"], strict=True)),
    }


def standard_prompts(checkpoint: Path, count: int) -> list[list[int]]:
    """The beginnings of files of Python's standard library, 32 tokens each."""
    tokenizer = load_tokenizer(checkpoint)
    prompts = []
    for path in sources():
        ids = tokenizer.encode(path.read_text(encoding="utf-8")[:2000], add_special_tokens=False).ids
        if len(ids) >= PROMPT:
            prompts.append(ids[:PROMPT])
        if len(prompts) == count:
            break
    return prompts


def in_turn(writers: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, one after the other, the first round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in writers}
    for turn in range(rounds + 1):
        for name, write in writers.items():
            started = time.perf_counter()
            write()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def bandwidth() -> float:
    """Bytes of memory that one thread reads in a second: the fastest of five sums over 512 MiB."""
    data = torch.ones(2**27)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        data.sum()
        seconds.append(time.perf_counter() - started)
    return 4 * data.numel() / min(seconds)


def line(row: dict[str, Any]) -> str:
    """One row as text."""
    return (
        f"width {row['width']}, {row['depth']} layers, batch {row['batch']}: "
        f"{row['tokens_per_second']:.0f} tokens/s, transformers {row['transformers_tokens_per_second']:.0f}, "
        f"ratio {row['ratio']:.2f}, bandwidth would allow {row['bandwidth_tokens_per_second']:.0f}; "
        f"{100 * row['same_text']:.0f} % of the tokens the same"
    )


if __name__ == "__main__":
    main()
