"""Tokens per second and core of a whole build of shards, against ``datasets.map`` with the same tokenizer.

    python -m benchmarks.data_build --json benchmarks/results/data_build.json

Both read the same JSON lines and write their tokens to disk, with one tokenizer thread: ours also drops
duplicates, shuffles, splits, cuts sequences and writes tars with digests. CPU seconds are counted, each time
of a fresh process. In turn A B A B …; median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import datasets
import tokenizers
from tokenizers import Tokenizer

from benchmarks.texts import benchmark_texts
from data.corpus import read_documents
from data.shards import build
from data.tokenizer import end_of_text_id, load_tokenizer, train_tokenizer


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=10, help="of text, at most")
    parser.add_argument("--vocabulary-size", type=int, default=8192)
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, given = arguments.one
        print((_build if what == "build" else _map)(Path(given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measure(
            Path(folder), arguments.rounds, arguments.megabytes * 10**6, arguments.vocabulary_size
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(folder: Path, rounds: int, size: int, vocabulary_size: int) -> dict[str, Any]:
    """Both in turn, after a round that is not counted."""
    texts = _texts(folder, size)
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    train_tokenizer(texts, vocabulary_size).save(str(folder / "tokenizer.json"))
    rates: dict[str, list[float]] = {"build": [], "map": []}
    for _ in range(rounds + 1):
        for what, found in rates.items():
            command = [sys.executable, "-m", "benchmarks.data_build", "--one", what, str(folder)]
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append(float(ended.stdout.split()[-1]))
    ratios = [ours / theirs for ours, theirs in zip(rates["build"], rates["map"], strict=True)][1:]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "tokens_per_second_and_core": {name: statistics.median(rate[1:]) for name, rate in rates.items()},
        "bytes": sum(len(text.encode()) for text in texts),
        "documents": len(texts),
        "vocabulary": vocabulary_size,
        "rounds": rounds,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, tokenizers {tokenizers.__version__}, "
        f"datasets {datasets.__version__}",
        "date": time.strftime("%Y-%m-%d"),
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
    """Tokens per second of CPU time of our build."""
    started = time.process_time()
    manifest = build(
        [folder / "texts.jsonl"], folder / "shards", tokenizer=folder / "tokenizer.json", overwrite=True
    )
    seconds = time.process_time() - started
    return sum(split.tokens for split in manifest.splits.values()) / seconds


def _map(folder: Path) -> float:
    """Tokens per second of CPU time of ``load_dataset``, ``map`` and the Arrow file that it writes."""
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
