"""Reading shards: tokens per second, time to the first batch and memory, against two well-known loaders.

    python -m benchmarks.data.loader --json benchmarks/results/loader.json

All read the same sequences as batches of int64 [64, 257], with files in the page cache. The loaders take
turns, each in a process of its own; medians are shown. ``webdataset`` is that library on our shards, in two
ways: every row shuffled in a buffer, and whole members in stored order, which is the fastest it can be but no
order to train in. ``streaming`` is MosaicML's, if it is installed; it reads the same sequences from its own
format. Ours verifies the SHA-256 of everything it reads, whose cost is measured too. It also reads a mixture
of three folders in the ratio 6 : 3 : 1. ``resume`` opens a manifest of ten gigabytes at a cursor in its third
epoch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks import bench
from benchmarks.bench import Row
from benchmarks.texts import benchmark_texts
from data.building.write import cut_sequences, shard_tasks
from data.manifest import load_manifest
from data.mixture import MixedSource, Mixture, Stage
from data.shards import build
from data.source import Source
from data.stream import MixedStream, ShardStream

LENGTH, BATCH, SECONDS = 256, 64, 4.0
TOKENS = 100_000_000
MIXED = "ours, three sources"
LOADERS = ("ours", MIXED, "webdataset", "webdataset, nothing shuffled", "streaming")


def main() -> None:
    """Measure all loaders, print and write the medians."""
    arguments = bench.parser(__doc__, rounds=5).parse_args()
    loaders = [name for name in LOADERS if name != "streaming" or importlib.util.find_spec("streaming")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(benchmark_texts(folder), folder / "text", vocabulary_size=2048, sequence_length=LENGTH)
        rows = write_shards(folder)
        if "streaming" in loaders:
            write_mds(rows, folder / "mds")
        write_long_manifest(folder)
        write_sources(folder)
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in (*loaders, "resume")}
        for _ in range(arguments.rounds):
            for name, results in measured.items():
                results.append(bench.in_fresh_process(measure, name, folder))
        digests = digest_tokens_per_second(folder / "shards")
    resumed = medians(measured.pop("resume"))
    table: list[Row] = [{"loader": name, **medians(results)} for name, results in measured.items()]
    ours, mixed, *others = table
    fastest = max(others, key=speed)
    shuffled = max((row for row in others if "nothing" not in row["loader"]), key=speed)
    result = {
        "rows": table,
        "ratio_to_fastest": speed(ours) / speed(fastest),
        "fastest": fastest["loader"],
        "ratio_to_fastest_shuffled": speed(ours) / speed(shuffled),
        "fastest_shuffled": shuffled["loader"],
        "ratio_of_three_sources_to_one": speed(mixed) / speed(ours),
        "share_of_digests": speed(ours) / digests,
        "resume": resumed,
        **bench.stamp("torch"),
    }
    bench.save(arguments.json, result)
    for row in table:
        bench.print_row(row)
    bench.print_row({key: value for key, value in result.items() if key != "rows"})


def speed(row: Row) -> float:
    """Tokens per second."""
    return float(row["tokens_per_second"])


def medians(results: list[dict[str, float]]) -> dict[str, float]:
    """The median of each value."""
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


def measure(name: str, folder: Path) -> dict[str, float]:
    """The speed of a loader, from opening its folder on; ``resume`` for a cursor far inside."""
    torch.set_num_threads(1)
    if name == "resume":
        return resume(folder)
    started = time.perf_counter()
    batches = open_loader(name, folder)
    next(batches)
    first = time.perf_counter() - started
    tokens, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        tokens += next(batches).shape[0] * LENGTH
    return {
        "tokens_per_second": tokens / (time.perf_counter() - started),
        "first_batch_seconds": first,
        "peak_rss": peak_bytes(),
    }


def peak_bytes() -> float:
    """The peak memory of this process; getrusage would include that of its parent."""
    [line] = [
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if "VmHWM" in line
    ]
    return float(line.split()[1]) * 1024


def open_loader(name: str, folder: Path) -> Iterator[torch.Tensor]:
    """Endless batches ``[64, 257]``."""
    if name == "ours":
        for batch in open_stream(folder / "shards"):
            yield batch.tokens
    elif name == MIXED:
        for batch in open_mixture([folder / f"source-{number}" for number in range(3)]):
            yield batch.tokens
    elif name == "streaming":
        yield from streaming_batches(folder / "mds")
    else:
        yield from webdataset_batches(folder / "shards", shuffled=name == "webdataset")


def open_stream(folder: Path) -> ShardStream:
    return ShardStream(folder, rank=0, world_size=1, global_batch=BATCH, sequence_length=LENGTH, seed=0)


def open_mixture(folders: Sequence[Path]) -> MixedStream:
    sources = [Source(folder, "train", reader="0-of-1", sequence_length=LENGTH, seed=0) for folder in folders]
    mixed = [MixedSource(name=source.shards, shards=source.shards, order=source.digest) for source in sources]
    mixture = Mixture(sources=tuple(mixed), stages=(Stage(begin=0, weights=(6, 3, 1)),))
    return MixedStream(sources, mixture, rank=0, world_size=1, global_batch=BATCH)


def write_sources(folder: Path) -> None:
    """Write three folders with the same files, whose manifests differ in the seed alone."""
    for number in range(3):
        source = folder / f"source-{number}"
        shutil.copytree(folder / "shards", source, copy_function=os.link)
        content = load_manifest(source).model_dump(mode="json") | {"seed": number}
        (source / "manifest.json").unlink()
        (source / "manifest.json").write_text(json.dumps(content), encoding="utf-8")


def webdataset_batches(folder: Path, shuffled: bool) -> Iterator[torch.Tensor]:
    """The pipeline that the documentation of ``webdataset`` shows."""
    import webdataset

    urls = [str(folder / shard.name) for shard in load_manifest(folder).splits["train"].shards]

    def rows(members: Iterator[tuple[np.ndarray]]) -> Iterator[np.ndarray]:
        for (member,) in members:
            yield from member

    def pieces(members: Iterator[tuple[np.ndarray]]) -> Iterator[np.ndarray]:
        for (member,) in members:
            yield from np.split(member, range(BATCH, len(member), BATCH))

    while True:
        members = webdataset.WebDataset(urls, shardshuffle=len(urls) if shuffled else False, seed=0)
        members = members.decode().to_tuple("tokens.npy")
        if shuffled:
            for batch in members.compose(rows).shuffle(4096).batched(BATCH, collation_fn=np.stack):
                yield torch.from_numpy(batch.astype(np.int64))
        else:
            for batch in members.compose(pieces):
                yield torch.from_numpy(batch.astype(np.int64))


def streaming_batches(folder: Path) -> Iterator[torch.Tensor]:
    """MosaicML Streaming with its default shuffle."""
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    while True:
        batch = []
        for sample in dataset:
            batch.append(sample["tokens"])
            if len(batch) == BATCH:
                yield torch.from_numpy(np.stack(batch).astype(np.int64))
                batch = []


def write_mds(rows: np.ndarray, folder: Path) -> None:
    """Write the same sequences in MosaicML's format."""
    from streaming import MDSWriter

    columns = {"tokens": f"ndarray:uint16:{rows.shape[1]}"}
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for row in rows:
            writer.write({"tokens": row.astype(np.uint16)})


def write_shards(folder: Path) -> np.ndarray:
    """Write the text's tokens repeatedly, more than a loader keeps in memory; returns all sequences."""
    text = open_stream(folder / "text")
    tokens = text.sequence_rows(np.arange(text.sequences)).numpy()[:, :-1].reshape(-1)
    tokens = np.tile(tokens.astype(np.uint16), TOKENS // len(tokens) + 1)[:TOKENS]
    tokens.tofile(folder / "tokens")
    manifest = load_manifest(folder / "text").model_dump(mode="json")
    shutil.copytree(folder / "text", folder / "shards", ignore=shutil.ignore_patterns("train-*"))
    tasks = shard_tasks(folder / "shards", "train", [(folder / "tokens", TOKENS)], LENGTH, "uint16", None)
    shards = [task.work() for task in tasks]
    manifest["splits"]["train"] |= {
        "sequences": sum(shard.sequences for shard in shards),
        "shards": [shard.model_dump(mode="json") for shard in shards],
    }
    (folder / "shards" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return cut_sequences(tokens, LENGTH)


def digest_tokens_per_second(folder: Path) -> float:
    """The rate at which one thread computes SHA-256 of the members."""
    pieces = [
        (folder / shard.name).read_bytes()[: member.bytes]
        for shard in load_manifest(folder).splits["train"].shards
        for member in shard.members
    ]
    sequences = load_manifest(folder).splits["train"].sequences
    started = time.perf_counter()
    for piece in pieces:
        hashlib.sha256(piece).digest()
    return sequences * LENGTH / (time.perf_counter() - started)


def write_long_manifest(folder: Path) -> None:
    """Write a folder of ten gigabytes whose shards are hard links to one file."""
    source = load_manifest(folder / "shards")
    content = source.model_dump(mode="json")
    train = content["splits"]["train"]
    shard = max(train["shards"], key=lambda s: s["bytes"])
    count = 10**10 // shard["bytes"]
    train["shards"] = [{**shard, "name": f"train-{i:06d}.tar"} for i in range(count)]
    train["sequences"] = count * sum(member[1] for member in shard["members"])
    long = folder / "long"
    long.mkdir()
    for i in range(count):
        os.link(folder / "shards" / shard["name"], long / f"train-{i:06d}.tar")
    for name in [s["name"] for s in content["splits"]["validation"]["shards"]] + ["tokenizer.json"]:
        os.link(folder / "shards" / name, long / name)
    (long / "manifest.json").write_text(json.dumps(content), encoding="utf-8")


def resume(folder: Path) -> dict[str, float]:
    """Seconds from opening the long folder to the first batch in its third epoch, and the memory used."""
    before = peak_bytes()
    started = time.perf_counter()
    stream = open_stream(folder / "long")
    stream.load_state_dict({**stream.state_dict(), "cursor": stream.sequences * 7 // 3})
    batches = iter(stream)
    next(batches)
    first = time.perf_counter() - started
    opened = peak_bytes()
    for _ in range(2000):
        next(batches)
    grown = peak_bytes() - opened
    shards = load_manifest(folder / "long").splits["train"].shards
    return {
        "first_batch_seconds": first,
        "gigabytes": sum(shard.bytes for shard in shards) / 1e9,
        "opening_bytes": opened - before,
        "growth_bytes_over_2000_batches": grown,
    }


if __name__ == "__main__":
    main()
