"""Generation: tokens per second against ``transformers``, and speculative against plain decoding.

    python -m benchmarks.speed.generation --json OUT [--model DIR --deep N --shallow N]

``rows``: an untrained model of each width at N = D and its export under ``generate`` of ``transformers``,
greedy, with the same prompts, taking turns in one process; medians of the rounds' ratios. ``bandwidth``: the
rate at which reading all weights once for each token would limit this machine. ``speculative``: a trained
checkpoint at its deep N, with and without a draft at the shallow one, on 100 prompts of Python's standard
library; the greedy texts are compared. Rows that are in the file are not measured again.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import odeformer
from benchmarks import bench
from benchmarks.bench import Results, Row, median_ratio
from data.tokenizer import load_tokenizer
from launcher.quickstart.standard_library import sources
from odeformer.config import BasisConfig, ModelConfig
from odeformer.inference.decoding import FixedDepthModel
from odeformer.inference.generate import generate
from odeformer.inference.sampling import Sampling
from odeformer.inference.speculative import Acceptance, speculate
from odeformer.interop import materialize
from odeformer.interop.hf.architectures import architecture_for
from odeformer.interop.hf.exporting import load_exported
from odeformer.model import Odeformer, SolveOptions

GREEDY = Sampling(temperature=0)
SHAPES = ({"width": 256, "heads": 4, "depth": 8}, {"width": 768, "heads": 12, "depth": 12})
BATCHES = (1, 8)
PROMPT = 32
VOCABULARY = 2048


def main() -> None:
    """Measure the missing rows, print and write them."""
    parser = bench.parser(__doc__, rounds=3)
    parser.add_argument("--new-tokens", type=int, default=256, help="tokens generated after each prompt")
    parser.add_argument("--model", type=Path, help="trained checkpoint for speculative decoding")
    parser.add_argument("--deep", type=int, default=16, help="depth N of the model")
    parser.add_argument("--shallow", type=int, default=4, help="depth N of the draft")
    parser.add_argument("--ahead", type=int, default=4, help="tokens drafted before they are verified")
    parser.add_argument("--prompts", type=int, default=100, help="number of prompts for speculative decoding")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(arguments.json, speculative=None)
    rate = bandwidth()
    for shape in SHAPES:
        for batch in BATCHES:
            if results.find(width=shape["width"], batch=batch) is None:
                row = against_transformers(shape, batch, arguments.new_tokens, arguments.rounds, rate)
                results.rows.append(row)
                bench.print_row(row)
    if arguments.model is not None:
        results.content["speculative"] = speculation(arguments)
        bench.print_row(results.content["speculative"])
    results.write(**bench.stamp("torch", note="1 thread"))


def untrained(shape: dict[str, int], new_tokens: int) -> Odeformer:
    """A model with K = D/2 and room for a prompt and ``new_tokens`` tokens."""
    torch.manual_seed(0)
    config = ModelConfig(
        **shape,
        basis=BasisConfig(size=shape["depth"] // 2),
        vocabulary_size=VOCABULARY,
        context_length=PROMPT + new_tokens,
    )
    return Odeformer(config).eval()


def against_transformers(shape: dict[str, int], batch: int, new_tokens: int, rounds: int, rate: float) -> Row:
    """A row: both on the same weights and prompts."""
    model = untrained(shape, new_tokens)
    ours, theirs = FixedDepthModel(model), transformers_model(model)
    prompts = torch.randint(VOCABULARY, (batch, PROMPT))
    texts: dict[str, Any] = {}

    def generate_ours() -> None:
        steps = generate(ours, prompts.tolist(), max_new_tokens=new_tokens, sampling=GREEDY)
        texts["ours"] = torch.tensor(list(steps)).T

    def generate_theirs() -> None:
        mask = torch.ones_like(prompts)
        out = theirs.generate(
            prompts, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )
        texts["theirs"] = out[:, PROMPT:]

    seconds = bench.in_turn({"ours": generate_ours, "theirs": generate_theirs}, rounds)
    tokens = batch * new_tokens
    layer_weights = sum(w.numel() for w in materialize(model).layers.values())
    bytes_per_token = 4 * (layer_weights + shape["width"] * VOCABULARY)
    return {
        **shape,
        "batch": batch,
        "new_tokens": new_tokens,
        "dtype": "fp32",
        "tokens_per_second": tokens / statistics.median(seconds["ours"]),
        "transformers_tokens_per_second": tokens / statistics.median(seconds["theirs"]),
        "bandwidth_tokens_per_second": batch * rate / bytes_per_token,
        "ratio": median_ratio(seconds["theirs"], seconds["ours"]),
        "same_text": float((texts["ours"] == texts["theirs"]).float().mean()),
    }


def transformers_model(model: Odeformer) -> Any:
    """The layers of a model at N = D as a model of ``transformers``, its weights in memory."""
    from safetensors.torch import save_file

    ordinary = materialize(model)
    architecture = architecture_for(ordinary.config, ordinary.solver)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        architecture.to_config(ordinary).to_json_file(folder / "config.json", use_diff=False)
        save_file(architecture.to_state(ordinary), folder / "model.safetensors", metadata={"format": "pt"})
        loaded = load_exported(folder)
        # Loading maps the file, which is deleted here: have the weights in memory, as ours are.
        for parameter in loaded.parameters():
            parameter.data = parameter.data.clone()
    return loaded


def speculation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Plain and speculative decoding of a trained checkpoint, and how many texts are the same."""
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
        limits = {"ahead": arguments.ahead, "max_new_tokens": new_tokens}
        return list(speculate(deep, shallow, prompt, **limits, sampling=GREEDY, acceptance=counts))

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
        "ratio": median_ratio(seconds["plain"], seconds["speculative"]),
        "same_texts": sum(a == b for a, b in zip(texts["plain"], texts["speculative"], strict=True)),
    }


def standard_prompts(checkpoint: Path, count: int) -> list[list[int]]:
    """The first 32 tokens of files of Python's standard library."""
    tokenizer = load_tokenizer(checkpoint)
    prompts: list[list[int]] = []
    for path in sources():
        if len(prompts) == count:
            break
        ids = tokenizer.encode(path.read_text(encoding="utf-8")[:2000], add_special_tokens=False).ids
        if len(ids) >= PROMPT:
            prompts.append(ids[:PROMPT])
    return prompts


def bandwidth() -> float:
    """Bytes of memory that one thread reads per second: the fastest of five sums over 512 MiB."""
    data = torch.ones(2**27)
    seconds = bench.in_turn({"sum": data.sum}, rounds=5)["sum"]
    return 4 * data.numel() / min(seconds)


if __name__ == "__main__":
    main()
