"""The steps of a build, one after the other; the tasks of each may run anywhere."""

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
"""Is told a stage (reading, comparing, tokenizer, encoding, writing) and how far it is, from 0 to 1."""

LEAST_GROUP, LARGEST_GROUP = 1024 * 1024, 64 * 1024 * 1024  # bytes of text that an encoding task holds
GROUPS = 64  # encoding tasks, before they grow


@dataclass(frozen=True)
class Settings:
    """What a build does with its sources; `tokenizer` is one to use, as JSON, instead of training one."""

    vocabulary_size: int
    sequence_length: int
    held_out: float
    seed: int
    filters: Filters | None
    tokenizer: bytes | None
    shard_sequences: int | None


class Written(NamedTuple):
    """A split's tar files, and their entries in the manifest."""

    files: list[Path]
    shards: tuple[Shard, ...]


class Steps:
    """Runs the steps in one folder. What was finished there before is taken as it is."""

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
        """Read all parts, and spill their documents by key."""
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
        """Find the documents that are at least so similar, and which of them are left out."""
        bands = band_tasks(self._folder, self._signatures, threshold)
        self._stage("comparing", bands)
        pairs = tuple(task.file(".pairs") for task in bands)
        task = ClusterTask(self._folder, "clusters", self._signatures, pairs, self._settings.seed)
        self._stage("comparing", [task])
        self._left_out = (task.file(".left_out"),)

    def train(self) -> tuple[Path, Trained]:
        """Train the tokenizer, or take the given one; return its file and what is to know of it."""
        task = TokenizerTask(
            self._folder,
            "tokenizer",
            self._spills,
            tuple(self._groups),
            self._left_out,
            self._settings.vocabulary_size,
            self._settings.tokenizer,
        )
        # In this process, which may use all of its cores: nothing else can be done meanwhile.
        (trained,) = self._stage("tokenizer", [task], one_after_the_other)
        return task.file(".tokenizer"), trained

    def encode(self, tokenizer: Path, dtype: str) -> list[Encoded]:
        """Drop duplicates, and tokenise what is left."""
        self._encodes = [
            EncodeTask(
                self._folder, f"encode-{index:06d}", self._spills, low, high, self._left_out, tokenizer, dtype
            )
            for index, (low, high) in enumerate(self._groups)
        ]
        return self._stage("encoding", self._encodes)

    def write(self, encoded: Sequence[Encoded], dtype: str) -> tuple[dict[SplitName, Written], int]:
        """Cut the streams into shards; return these and the size of the validation texts under gzip."""
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
        zipping = GzipTask(self._folder, "gzip", texts)
        size, *shards = self._stage("writing", [zipping, *tasks["train"], *tasks["validation"]])
        count = len(tasks["train"])
        entries = {"train": shards[:count], "validation": shards[count:]}
        return {
            split: Written([task.file(".tar") for task in tasks[split]], tuple(entries[split]))
            for split in SPLITS
        }, size.bytes

    def _stage(self, name: str, tasks: Sequence[Task[Any]], run: Run | None = None) -> list[Any]:
        """Return the tasks' results, and tell how far they are."""
        ended = 0

        def done(result: Any, is_new: bool) -> None:
            nonlocal ended
            ended += 1
            if is_new and isinstance(result, Encoded):
                self._encoded(sum(split.tokens for split in result.splits.values()))
            self._progress(name, ended / len(tasks))

        self._progress(name, 0.0)
        return run_tasks(tasks, run or self._run, done)
