"""Building shards against ``datasets.map`` with the same tokenizer: tokens per second and core.

    python -m benchmarks.data.build --json benchmarks/results/data_build.json

Both read the same JSON lines and write their tokens to disk with one tokenizer thread; ours also removes
duplicates, shuffles, splits, cuts sequences and writes tars with digests. CPU seconds are counted, each time
in a fresh process. Both take turns, A B A B …; the result is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import datasets
from tokenizers import Tokenizer

from benchmarks import bench
from benchmarks.texts import benchmark_texts
from data.corpus import read_documents
from data.shards import build
from data.tokenizer import end_of_text_id, load_tokenizer, train_tokenizer


def main() -> None:
    """Measure both, print and write the ratio."""
    parser = bench.parser(__doc__, rounds=7)
    parser.add_argument("--megabytes", type=int, default=10, help="most text to read")
    parser.add_argument("--vocabulary-size", type=int, default=8192, help="tokens of the tokenizer")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(
            Path(folder), arguments.rounds, arguments.megabytes * 10**6, arguments.vocabulary_size
        )
    bench.save(arguments.json, result)
    bench.print_row(result)


def measure(folder: Path, rounds: int, size: int, vocabulary_size: int) -> dict[str, Any]:
    """Both in turn, after a round that is not counted."""
    texts = _texts(folder, size)
    (folder / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8"
    )
    train_tokenizer(texts, vocabulary_size).save(str(folder / "tokenizer.json"))
    rates: dict[str, list[float]] = {"build": [], "map": []}
    for _ in range(rounds + 1):
        for name, work in (("build", _build), ("map", _map)):
            rates[name].append(bench.in_fresh_process(work, folder))
    ratios = [ours / theirs for ours, theirs in zip(rates["build"], rates["map"], strict=True)][1:]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "tokens_per_second_and_core": {name: statistics.median(rate[1:]) for name, rate in rates.items()},
        "bytes": sum(len(text.encode()) for text in texts),
        "documents": len(texts),
        "vocabulary": vocabulary_size,
        "rounds": rounds,
        **bench.stamp("tokenizers", "datasets"),
    }


def _texts(folder: Path, size: int) -> list[str]:
    texts = []
    for document in read_documents(benchmark_texts(folder)):
        texts.append(document.text)
        size -= len(document.text)
        if size <= 0:
            break
    return texts


def _build(folder: Path) -> float:
    """Our build's tokens per second of CPU time."""
    started = time.process_time()
    manifest = build(
        [folder / "texts.jsonl"], folder / "shards", tokenizer=folder / "tokenizer.json", overwrite=True
    )
    seconds = time.process_time() - started
    return sum(split.tokens for split in manifest.splits.values()) / seconds


def _map(folder: Path) -> float:
    """The same of ``load_dataset``, ``map`` and the Arrow file that it writes."""
    tokenizer: Tokenizer = load_tokenizer(folder / "tokenizer.json")
    end = end_of_text_id(tokenizer)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encodings = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"ids": [[*encoding.ids, end] for encoding in encodings]}

    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    datasets.disable_progress_bars()
    features = datasets.Features({"ids": datasets.List(datasets.Value("uint16"))})
    started = time.process_time()
    rows = datasets.load_dataset(
        "json", data_files=str(folder / "texts.jsonl"), split="train", cache_dir=str(cache)
    )
    encoded = rows.map(
        encode,
        batched=True,
        batch_size=64,
        remove_columns=["text"],
        features=features,
        load_from_cache_file=False,
    )
    seconds = time.process_time() - started
    return sum(len(ids) for batch in encoded.with_format("numpy").iter(512) for ids in batch["ids"]) / seconds


if __name__ == "__main__":
    main()
