from pathlib import Path

import numpy as np

from data.lengths import document_lengths
from data.shards import build
from data.tokenizer import load_tokenizer


def test_lengths_are_those_of_the_documents(tmp_path: Path) -> None:
    texts = [f"document {i} " + "word " * (10 + 7 * i) for i in range(80)]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text)
    build([tmp_path], tmp_path / "shards", vocabulary_size=300, sequence_length=16, held_out=0.3)
    tokenizer = load_tokenizer(tmp_path / "shards")
    possible = {len(tokenizer.encode(text).ids) for text in texts}
    lengths = document_lengths(tmp_path / "shards", "train")
    assert len(lengths) > 40
    assert set(lengths.tolist()) <= possible
    first = document_lengths(tmp_path / "shards", "train", most_sequences=20)
    assert np.array_equal(first, lengths[: len(first)])
