"""The benchmark texts and tasks, where they are at hand."""

from __future__ import annotations

from pathlib import Path

from data.shards import build
from data.tasks.examples import labels, read_examples


def test_a_novel_becomes_shards_with_a_held_out_part(shared_texts: Path, tmp_path: Path) -> None:
    manifest = build([shared_texts / "tinyshakespeare.txt"], tmp_path / "shards", sequence_length=128)
    train, validation = manifest.splits["train"], manifest.splits["validation"]
    assert train.bytes + validation.bytes == (shared_texts / "tinyshakespeare.txt").stat().st_size
    assert 0.01 < validation.bytes / train.bytes < 0.15
    assert 2 < train.bytes / train.tokens < 5


def test_sst2_and_gsm8k_are_task_files(shared_texts: Path) -> None:
    sst2 = read_examples(shared_texts / "sst2/train.tsv", "classification", "{0}\nsentiment: ", "{1}")
    assert len(sst2) == len((shared_texts / "sst2/train.tsv").read_text().splitlines())
    assert labels(sst2) == ["0", "1"]
    gsm8k = read_examples(shared_texts / "gsm8k/test.jsonl", "completion", "{question}\n", "{answer}")
    assert all("####" in example.completion for example in gsm8k)
