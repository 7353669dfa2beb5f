"""The steps of a build in sequence; the tasks of a step may run on any worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data.building.encode import SPLITS, Encoded, EncodeTask
from data.building.near.clusters import ClusterTask
from data.building.near.pairs import band_tasks
from data.building.parts import Part
from data.building.scan import Scanned, scan_tasks
from data.building.scratch import Run, Task, one_after_the_other, run_tasks
from data.building.spill import Spill, group_ranges, range_sizes
from data.building.train import TokenizerTask, Trained
from data.building.write import GzipTask, ShardTask, shard_tasks
from data.manifest import Filters, Shard, SplitName

Progress = Callable[[str, float], None]
"""A callback with a stage (reading, comparing, tokenizer, encoding, writing) and its fraction done."""

LEAST_GROUP, LARGEST_GROUP = 1024 * 1024, 64 * 1024 * 1024
"""Minimum and maximum bytes of text that an encoding task holds."""
GROUPS = 64
"""Number of encoding tasks, unless they would have too much or too little text."""


@dataclass(frozen=True)
class Settings:
    """The options of a build that determine its result, as in :func:`data.shards.build`."""

    vocabulary_size: int
    sequence_length: int
    held_out: float
    seed: int
    filters: Filters | None
    tokenizer: bytes | None
    """The content of a tokenizer.json to use instead of training one."""
    shard_sequences: int | None


class Written(NamedTuple):
    """A split's tar files and their entries in the manifest."""

    files: list[Path]
    shards: tuple[Shard, ...]


class Steps:
    """Runs the steps of a build in a folder; tasks that are finished there are not run again."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        run: Run,
        progress: Progress,
        encoded: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._run = run
        self._progress = progress
        self._encoded = encoded
        self._spills: tuple[Spill, ...] = ()
        self._signatures: tuple[Path, ...] = ()
        self._left_out: tuple[Path, ...] = ()
        self._groups: list[tuple[int, int]] = []
        self._encodes: list[EncodeTask] = []

    def scan(self, parts: Sequence[Part]) -> list[Scanned]:
        """Read all parts, and write their documents to disk by key."""
        settings = self._settings
        tasks = scan_tasks(self._folder, parts, settings.held_out, settings.seed, settings.filters)
        results: list[Scanned] = self._stage("reading", tasks)
        self._spills = tuple(task.spill for task in tasks)
        self._signatures = tuple(task.file(".signatures") for task in tasks)
        sizes = range_sizes(self._spills)
        most = min(LARGEST_GROUP, max(LEAST_GROUP, int(sizes.sum()) // GROUPS))
        self._groups = group_ranges(sizes, most)
        return results

    def compare(self, threshold: float) -> None:
        """Find near duplicates, whose similarity is at least ``threshold``, and choose those to leave out."""
        bands = band_tasks(self._folder, self._signatures, threshold)
        self._stage("comparing", bands)
        pairs = tuple(task.file(".pairs") for task in bands)
        task = ClusterTask(self._folder, "clusters", self._signatures, pairs, self._settings.seed)
        self._stage("comparing", [task])
        self._left_out = (task.file(".left_out"),)

    def train(self) -> tuple[Path, Trained]:
        """Train the tokenizer, or use the given one; return its file and its properties."""
        task = TokenizerTask(
            self._folder,
            "tokenizer",
            self._spills,
            tuple(self._groups),
            self._left_out,
            self._settings.vocabulary_size,
            self._settings.tokenizer,
        )
        # In this process, which may use all cores: no other task can run at the same time.
        (trained,) = self._stage("tokenizer", [task], one_after_the_other)
        return task.file(".tokenizer"), trained

    def encode(self, tokenizer: Path, dtype: str) -> list[Encoded]:
        """Remove duplicates, and tokenize the remaining documents."""
        self._encodes = [
            EncodeTask(
                self._folder, f"encode-{index:06d}", self._spills, low, high, self._left_out, tokenizer, dtype
            )
            for index, (low, high) in enumerate(self._groups)
        ]
        return self._stage("encoding", self._encodes)

    def write(self, encoded: Sequence[Encoded], dtype: str) -> tuple[dict[SplitName, Written], int]:
        """Cut the token streams into shards; return them and the gzipped size of the validation texts."""
        tasks: dict[SplitName, list[ShardTask]] = {}
        for split in SPLITS:
            counts = [result.splits[split].tokens for result in encoded]
            streams = list(zip((task.file(f".{split}") for task in self._encodes), counts, strict=True))
            tasks[split] = shard_tasks(
                self._folder,
                split,
                streams,
                self._settings.sequence_length,
                dtype,
                self._settings.shard_sequences,
            )
        texts = tuple(task.file(".texts") for task in self._encodes)
        gzip_task = GzipTask(self._folder, "gzip", texts)
        size, *shards = self._stage("writing", [gzip_task, *tasks["train"], *tasks["validation"]])
        written = {}
        for split in SPLITS:
            files = [task.file(".tar") for task in tasks[split]]
            written[split] = Written(files, tuple(shards[: len(files)]))
            shards = shards[len(files) :]
        return written, size.bytes

    def _stage(self, name: str, tasks: Sequence[Task[Any]], run: Run | None = None) -> list[Any]:
        """The results of a step's tasks, with progress reports."""
        finished = 0

        def done(result: Any, is_new: bool) -> None:
            nonlocal finished
            finished += 1
            if is_new and isinstance(result, Encoded):
                self._encoded(sum(split.tokens for split in result.splits.values()))
            self._progress(name, finished / len(tasks))

        self._progress(name, 0.0)
        return run_tasks(tasks, run or self._run, done)
