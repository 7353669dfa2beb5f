"""Whatever bytes somebody gives, there is a result or an error of one line that names the file.

Valid files are damaged at random; the same examples come each time, and other and many more in the slow test.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import torch
import zstandard
from damages import Damage, damages
from hypothesis import HealthCheck, given, settings
from limits import limits
from safetensors.torch import save
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from cluster.checkpoints import folder, identity
from cluster.pool.board import Board
from cluster.pool.database import FILE_NAME as JOURNAL
from cluster.pool.job import JobRecord
from cluster.pool.journal import Journal
from cluster.pool.settings import PoolSettings
from cluster.pool.warm import OUTCOME
from data.building.parts import list_parts
from data.building.reading import texts
from data.building.sources import TextSource
from data.chat import ChatTemplate, default_template
from data.corpus import read_documents
from data.tasks.example import Example
from data.tasks.examples import read_task_sets
from data.tasks.stream import encode
from data.tokenizer import load_tokenizer, train_tokenizer
from launcher.configuration.load import load_pool, load_pretrain, load_sources, load_task
from odeformer import checkpoint
from odeformer.config import ModelConfig
from odeformer.untrusted import check_folder

ROWS = [
    {"q": f"one {n} é", "a": "x" if n % 2 else "y", "n": n, "other": {"deep": [n, None]}} for n in range(30)
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
TASK = b"""
name: docs
team: &team docs
base: models:/tiny@champion
kind: completion
data: {train: train.jsonl, prompt: "{q} 1:30", held_out: 0.25}
depth: 4
train: {steps: 100, learning_rate: 1e-3, depths: [2, 4]}
gate: {metric: loss, threshold: 1.5}
priority: 1
deadline: 2026-12-01T18:00:00+01:00
"""
POOL = b"dir: pool\njobs_per_slot: 2\nteams:\n  docs: {weight: 2, budget: {slot_hours: 40, per: week}}\n"
SOURCES = (
    b"sources:\n  - {path: books/, weight: 0.3, licence: ~}\n  - &a {path: 'hf:wiki', split: train}\n  - *a\n"
)
CARD = b"""---
configs:
- config_name: default
  data_files: [{split: train, path: 'mi*.jsonl'}]
---
# A dataset, 1.5
"""
RUN = b"""
model: {preset: tiny, depth: 4}
data: {shards: shards, sequence_length: 64, cache_bytes: 1_000_000}
train: {steps: 300, global_batch: 8, micro_batch: 4, depths: [2, 4]}
optim: {learning_rate: 3e-3, betas: [0.9, 0.95]}
run: {dir: runs/a, seed: 0}
"""


CHAT = ChatTemplate.of(train_tokenizer(["some text 1 2 3"], 300), {})
CALL = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1.5}'}}
TURNS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": f"text {i}"}, {"role": "assistant", "tool_calls": [CALL]},
     {"role": "tool", "content": [{"type": "text", "text": "é"}]},
     {"role": "assistant", "content": "1", "weight": 1}]
    for i in range(12)
]  # fmt: skip
CHATS = b"".join(json.dumps({"messages": turns, "tools": [CALL]}).encode() + b"\n" for turns in TURNS)
PAIRS = b"".join(
    json.dumps({"prompt": turns[:1], "chosen": turns[1:], "rejected": turns[3:]}).encode() + b"\n"
    for turns in TURNS
)


def _table(separator: str, row: Callable[[dict[str, Any]], list[Any]]) -> bytes:
    lines = [separator.join(map(str, row(fields))) for fields in ROWS]
    return "\r\n".join([separator.join("qan"), *lines, ""]).encode()


@cache
def _parquet() -> bytes:
    stream = io.BytesIO()
    columns = {name: [row[name] for row in ROWS] for name in ("q", "a", "n")}
    features = datasets.Features(
        {
            "q": datasets.Value("string"),
            "a": datasets.ClassLabel(names=["y", "x"]),
            "n": datasets.Value("int64"),
        }
    )
    data_set = datasets.Dataset.from_dict(columns, features=features)
    pq.write_table(data_set.data.table, stream, row_group_size=10)
    return stream.getvalue()


@cache
def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, row in enumerate(ROWS[:9]):
            for suffix in ("txt", "json") if number % 3 else ("json",):
                entry = tarfile.TarInfo(f"{'é' * (60 * (number == 4))}{number}.{suffix}")
                data = json.dumps(row).encode()
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


@cache
def _tokenizer() -> bytes:
    tokenizer = Tokenizer(models.BPE({"</s>": 0, "a": 1, "b": 2, "ab": 3, "▁": 4}, [("a", "b")]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d{1,3}|\s+(?!\S)|[^\s]+"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return tokenizer.to_str(pretty=True).encode()


SHAPE = ModelConfig.model_validate(
    {
        "width": 16,
        "heads": 2,
        "depth": 2,
        "rotary_fraction": 0.5,
        "basis": {"size": 1},
        "vocabulary_size": 5,
        "context_length": 8,
    }
)


IDENTITY = {
    "model": SHAPE.model_dump(mode="json"),
    "init": None,
    "data": "digest",
    "seeds": [0, 0],
    "start": 0,
}


def _read_table(path: Path) -> object:
    return read_task_sets(path, None, "completion", "{q}", "{a}", held_out=0.3)


def _read_chats(path: Path) -> object:
    sets = read_task_sets(path, None, "chat", "", "", held_out=0.3)
    return sets.tokenized("chat", CHAT)


def _read_pairs(path: Path) -> object:
    sets = read_task_sets(path, None, "preference", "", "", held_out=0.3)
    return sets.tokenized("preference", CHAT)


def _read_template(path: Path) -> object:
    config = {"chat_template": path.read_bytes().decode("utf-8", errors="replace")}
    messages = [{"role": role, "content": "1 x"} for role in ("user", "assistant")]
    try:
        return ChatTemplate.of(CHAT.tokenizer, config).encode_turns(messages, [{"name": "f"}])
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _read_columns(path: Path) -> object:
    return read_task_sets(path, None, "completion", "{0}", "{1}", held_out=0.3)


def _read_texts(path: Path) -> object:
    parts = list_parts(0, TextSource(path=str(path), field="q"))
    return [text for part in parts for text in texts(part, part.path)]


def _read_data_set(path: Path) -> object:
    return _read_table(path.parent)


def _read_card(path: Path) -> object:
    (path.parent / "mine.jsonl").write_bytes(LINES)
    return _read_table(path.parent)


def _read_tokenizer(path: Path) -> object:
    try:
        tokenizer = load_tokenizer(path)
        ids = encode(Example("a prompt 12", "ab ab"), tokenizer, 16)[0].ids
        return tokenizer.decode(ids)
    except ValueError as error:
        if "the tokenizer cannot read a text" in str(error):  # found when a text is read, of any file
            return None
        raise


def _read_tensors(path: Path) -> object:
    check_folder(path.parent)
    return checkpoint.read_tensors(path)


def _read_config(path: Path) -> object:
    check_folder(path.parent)
    return checkpoint.load_config(path.parent)


def _begun(board: Board) -> JobRecord:
    """A job that runs."""
    task = {"team": "docs", "name": "a", "base": "models:/b/1", "priority": 0}
    return board.move(board.submit(task, "once", None, again=False), "running", attempts=1)


@cache
def _journal() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        pool = PoolSettings(dir=Path(place))
        with closing(Journal(pool.dir)) as journal:
            journal.keep_settings({"settings": pool.model_dump(mode="json"), "is_draining": False}, 0.0)
            _begun(Board(journal, pool))
        return Path(place, JOURNAL).read_bytes()


def _read_journal(path: Path) -> object:
    with closing(Journal(path.parent)) as journal:
        board = Board(journal, PoolSettings(dir=path.parent))
        return [board.fault(job) for job in journal.jobs()], journal.settings()


def _read_row(path: Path) -> object:
    """The damaged bytes are what the journal has of a task."""
    whole = path.with_name(JOURNAL)
    whole.write_bytes(_journal())
    with closing(sqlite3.connect(whole)) as database, database:
        text = path.read_bytes().decode("utf-8", "replace")
        database.execute("UPDATE jobs SET task = ?, result = ?", (text, text))
        database.execute("UPDATE settings SET content = ?", (text,))
    return _read_journal(whole)


def _read_outcome(path: Path) -> object:
    with closing(Journal(path.parent)) as journal:
        board = Board(journal, PoolSettings(dir=path.parent))
        job = _begun(board)
        board.folder(job).mkdir(parents=True)
        path.rename(board.folder(job) / OUTCOME)
        outcome = board.outcome(job)
        assert not outcome or outcome.get("attempt", 1) == 1
        if "attempt" not in outcome and "error" in outcome:
            raise ValueError(outcome["error"])  # it becomes the job's
        return outcome


def _read_identity(path: Path) -> object:
    recorded = identity.read(path.parent)
    return None if recorded is None else (identity.differences(recorded, IDENTITY) or recorded)


def _read_commit(path: Path) -> object:
    (path.parent / "weights.pt").write_bytes(b"weights")
    try:
        return folder.verified(path.parent)
    except (ValueError, folder.FormatError) as error:
        if "is not what was written" in str(error):  # of the file that it names
            return None
        raise ValueError(f"{folder.MANIFEST}: {error}") from None


@dataclass(frozen=True)
class Reader:
    """A file, its content while it is whole, and what reads it."""

    name: str
    whole: Callable[[], bytes]
    read: Callable[[Path], object]
    pack: Callable[[bytes], bytes] = bytes
    """What is done with the damaged bytes, so that the damage is not that of the packing."""
    names_folder: bool = False
    """Whether an error may name the folder alone."""


def _zipped(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def _config() -> bytes:
    content = {"format_version": checkpoint.FORMAT_VERSION, "model": SHAPE.model_dump(), "solver": "euler"}
    return json.dumps(content).encode()


def _commit() -> bytes:
    digest = hashlib.sha256(b"weights").hexdigest()
    content = {"format_version": folder.FORMAT_VERSION, "step": 3, "files": {"weights.pt": digest}}
    return json.dumps(content | {"run": IDENTITY}).encode()


READERS = {
    "jsonl": Reader("a.jsonl", lambda: LINES, _read_table),
    "chats": Reader("a.jsonl", lambda: CHATS, _read_chats),
    "pairs": Reader("a.jsonl", lambda: PAIRS, _read_pairs),
    "chat template": Reader(
        "chat_template.jinja", lambda: default_template(CHAT.tokenizer).encode(), _read_template
    ),
    "csv": Reader(
        "a.csv", lambda: _table(",", lambda row: [f'"{row["q"]}, ""x"""', row["a"], 1]), _read_table
    ),
    "tsv": Reader("a.tsv", lambda: _table("\t", lambda row: [f'"{row["q"]}', row["a"], 1]), _read_table),
    "quoted tsv": Reader("a.tsv", lambda: _table("\t", lambda r: [f'"{r["q"]}\n"', r["a"], 1]), _read_table),
    "numbers": Reader(
        "a.csv", lambda: _table(",", lambda r: [r["n"], r["q"], 1]).replace(b"q,a,n", b"0,1,2"), _read_columns
    ),
    "packed table": Reader("a.csv.gz", lambda: _zipped(_table(",", lambda r: [r["q"], 1, 2])), _read_table),
    "parquet table": Reader("a.parquet", _parquet, _read_table),
    "dataset": Reader("train.jsonl", lambda: LINES, _read_data_set, names_folder=True),
    "card": Reader("README.md", lambda: CARD, _read_card, names_folder=True),
    "text": Reader("a.txt", lambda: LINES * 30, _read_texts),
    "document": Reader("a.txt", lambda: LINES, lambda path: list(read_documents([path]))),
    "lines": Reader("a.jsonl", lambda: LINES, _read_texts),
    "packed lines": Reader("a.jsonl.zst", lambda: zstandard.compress(LINES), _read_texts),
    "zipped lines": Reader("a.jsonl.gz", lambda: LINES, _read_texts, _zipped),
    "parquet": Reader("a.parquet", _parquet, _read_texts),
    "tar": Reader("a.tar", _tar, _read_texts),
    "zipped tar": Reader("a.tar.gz", _tar, _read_texts, _zipped),
    "packed tar": Reader("a.tar.gz", lambda: _zipped(_tar()), _read_texts),
    "tokenizer": Reader("tokenizer.json", _tokenizer, _read_tokenizer),
    "tensors": Reader(
        "model.safetensors", lambda: save({"a": torch.ones(3, 4), "b": torch.zeros(2)}), _read_tensors
    ),
    "config": Reader("config.json", _config, _read_config),
    "outcome": Reader(
        OUTCOME, lambda: b'{"attempt": 1, "error": "it failed", "is_mendable": false}', _read_outcome
    ),
    "journal": Reader(JOURNAL, _journal, _read_journal),
    "journal row": Reader(
        "task.json", lambda: b'{"team": "docs", "name": "a", "base": "models:/b/1", "priority": 0}', _read_row
    ),
    "run.json": Reader(identity.FILE_NAME, lambda: json.dumps(IDENTITY).encode(), _read_identity),
    "commit": Reader(folder.MANIFEST, _commit, _read_commit),
    "task": Reader("task.yaml", lambda: TASK, load_task),
    "pool": Reader("pool.yaml", lambda: POOL, load_pool),
    "sources": Reader("sources.yaml", lambda: SOURCES, load_sources),
    "run": Reader("run.yaml", lambda: RUN, lambda path: load_pretrain(str(path))),
}


def check(reader: Reader, damage: Damage) -> None:
    """Read a damaged file within the limits: it is read, or refused in one line that names it."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, reader.name)
        path.write_bytes(reader.pack(damage(reader.whole())))
        with limits():
            try:
                reader.read(path)
            except (ValueError, OSError) as error:
                said = str(error)
                assert (place if reader.names_folder else reader.name) in said, (
                    f"it does not name the file: {said[:300]!r}"
                )
                assert "\n" not in said.replace(reader.name, ""), f"more than a line: {said[:300]!r}"
                assert len(said) < 2000, f"too long: {said[:300]!r}"


@pytest.mark.parametrize("kind", READERS)
def test_whole_files_are_read(kind: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, READERS[kind].name)
        path.write_bytes(READERS[kind].pack(READERS[kind].whole()))
        assert READERS[kind].read(path)


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=25, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(damage=damages())
def test_damaged_files_are_read_or_refused(kind: str, damage: Damage) -> None:
    check(READERS[kind], damage)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=300, database=None, suppress_health_check=list(HealthCheck))
@given(damage=damages())
def test_much_damaged_files_are_read_or_refused(kind: str, damage: Damage) -> None:
    check(READERS[kind], damage)
