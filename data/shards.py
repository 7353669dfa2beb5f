"""Build a folder of shards: tokenizer, token sequences in tar files, and their manifest."""

import gzip
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from data import manifest as manifests
from data import tokenizer as tokenizers
from data.corpus import Document, describe_source, is_held_out, read_documents
from data.manifest import Manifest, Shard, Source, Split, SplitName
from data.order import permutation

os.environ.setdefault("WDS_SECURE", "1")  # before webdataset: no commands, no pickle
from webdataset.writer import TarWriter

Progress = Callable[[str, float], None]

ROWS_PER_MEMBER = 128  # a tar header per 2 KB sequence would waste half of the file
DOCUMENTS_PER_BATCH = 64


def build(
    paths: Sequence[Path],
    out: Path,
    *,
    vocabulary_size: int = 2048,
    sequence_length: int = 256,
    held_out: float = 0.05,
    seed: int = 0,
    tokenizer: Path | None = None,
    shard_sequences: int = 1024,
    overwrite: bool = False,
    progress: Progress = lambda stage, fraction: None,
) -> Manifest:
    """Turn text files into a folder of verified shards, and return its manifest.

    Each split is one stream of tokens (each document followed by end-of-text), cut into sequences
    of `sequence_length` + 1 tokens that overlap by one: every token but the first is predicted
    exactly once; the tail that does not fill a sequence is dropped. `tokenizer` is an existing
    tokenizer.json to use instead of training one, `vocabulary_size` then plays no part.
    `progress(stage, fraction)` is called with the stages reading, tokenizer, encoding and writing.

    The folder appears as a whole or not at all, and the same input gives the same bytes. Raises
    ValueError for unusable arguments, an existing `out` (unless `overwrite`) and too little text;
    FileNotFoundError for a missing path.
    """
    _check_arguments(paths, sequence_length, shard_sequences, held_out)
    if tokenizer is None:
        tokenizers.check_vocabulary_size(vocabulary_size)
    out = out.resolve()
    _check_free(out, overwrite)

    sources, documents = _read(paths, seed, progress)
    splits = _split(documents, held_out)

    progress("tokenizer", 0.0)
    if tokenizer is not None:
        trained = tokenizers.load_tokenizer(tokenizer)
    else:
        texts = [document.text for document in splits["train"]]
        trained = tokenizers.train_tokenizer(texts, vocabulary_size)
    progress("tokenizer", 1.0)
    tokenizer_json = tokenizers.written(trained)

    vocabulary_size = trained.get_vocab_size()
    dtype: Literal["uint16", "uint32"] = "uint16" if vocabulary_size <= 2**16 else "uint32"
    encoded = _counter("encoding", len(documents), progress)
    streams = {name: _encode(members, trained, dtype, encoded) for name, members in splits.items()}
    sequences = {name: cut_sequences(t, sequence_length, name) for name, t in streams.items()}

    written = _counter("writing", sum(len(rows) for rows in sequences.values()), progress)
    with _folder_that_appears_whole(out, overwrite) as folder:
        _write_file(folder / tokenizers.FILE_NAME, tokenizer_json)
        finished = Manifest(
            format_version=manifests.FORMAT_VERSION,
            sequence_length=sequence_length,
            vocabulary_size=vocabulary_size,
            dtype=dtype,
            tokenizer_sha256=hashlib.sha256(tokenizer_json).hexdigest(),
            seed=seed,
            held_out=held_out,
            sources=tuple(sources),
            splits={
                name: _write_split(
                    folder, name, members, streams[name], sequences[name], shard_sequences, written
                )
                for name, members in splits.items()
            },
        )
        text = finished.model_dump_json(indent=1) + "\n"
        _write_file(folder / manifests.FILE_NAME, text.encode("utf-8"))
    return finished


def cut_sequences(tokens: np.ndarray, sequence_length: int, split: str) -> np.ndarray:
    """View tokens [n] as sequences [(n - 1) // sequence_length, sequence_length + 1].

    Neighbours share one token, the last of one and the first of the next. Raises ValueError if
    there is not even one sequence.
    """
    count = (len(tokens) - 1) // sequence_length
    if count < 1:
        raise ValueError(
            f"text too small: the {split} split has {len(tokens)} tokens, but one sequence takes "
            f"{sequence_length} + 1: give more text or a smaller sequence length"
        )
    windows = np.lib.stride_tricks.sliding_window_view(tokens, sequence_length + 1)
    return windows[::sequence_length][:count]


def _check_arguments(
    paths: Sequence[Path], sequence_length: int, shard_sequences: int, held_out: float
) -> None:
    if not paths:
        raise ValueError("no text was given: name at least one file or folder")
    if sequence_length < 1:
        raise ValueError(f"sequence_length is {sequence_length}: it must be at least 1")
    if shard_sequences < 1:
        raise ValueError(f"shard_sequences is {shard_sequences}: it must be at least 1")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}: it must be a fraction between 0 and 1, as 0.05")


def _check_free(out: Path, overwrite: bool) -> None:
    """Refuse to touch a folder that somebody may need."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"{out} exists: choose another folder, or overwrite it explicitly")
    if not (out / manifests.FILE_NAME).is_file():
        raise ValueError(f"{out} exists and is not a data folder (no manifest): choose another")


def _read(paths: Sequence[Path], seed: int, progress: Progress) -> tuple[list[Source], list[Document]]:
    """Read everything, in an order that depends on the texts and the seed alone."""
    progress("reading", 0.0)
    sources = [describe_source(path) for path in paths]
    total = max(1, sum(source.bytes for source in sources))
    read = 0
    documents = []
    for document in read_documents(paths):
        documents.append(document)
        read += len(document.text.encode("utf-8"))
        progress("reading", min(1.0, read / total))
    progress("reading", 1.0)
    documents.sort(key=lambda document: document.digest)
    order = permutation(len(documents), "documents", seed)
    return sources, [documents[i] for i in order]


def _split(documents: list[Document], held_out: float) -> dict[SplitName, list[Document]]:
    splits: dict[SplitName, list[Document]] = {"train": [], "validation": []}
    for document in documents:
        splits["validation" if is_held_out(document, held_out) else "train"].append(document)
    if not (splits["train"] and splits["validation"]):
        raise ValueError(
            f"text too small: of {len(documents)} documents, {len(splits['validation'])} are held "
            f"out at held_out={held_out}, and each side needs one: give more text or another "
            "fraction"
        )
    return splits


def _counter(stage: str, total: int, progress: Progress) -> Callable[[int], None]:
    """Return a function that is told how many more are done, and reports the stage's fraction."""
    done = 0

    def more(count: int) -> None:
        nonlocal done
        done += count
        progress(stage, done / total)

    return more


def _encode(
    documents: list[Document], tokenizer: Tokenizer, dtype: str, encoded: Callable[[int], None]
) -> np.ndarray:
    """Return the documents' tokens, each followed by end-of-text, as one array [n]."""
    end = tokenizers.end_of_text_id(tokenizer)
    pieces = []
    for start in range(0, len(documents), DOCUMENTS_PER_BATCH):
        texts = [document.text for document in documents[start : start + DOCUMENTS_PER_BATCH]]
        for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            pieces.append(np.array([*encoding.ids, end], dtype=dtype))
        encoded(len(texts))
    return np.concatenate(pieces)


def _write_split(
    folder: Path,
    name: SplitName,
    documents: list[Document],
    tokens: np.ndarray,
    sequences: np.ndarray,
    shard_sequences: int,
    written: Callable[[int], None],
) -> Split:
    texts = [document.text.encode("utf-8") for document in documents]
    zipped = len(gzip.compress(b"".join(texts), 9)) if name == "validation" else None
    shards: list[Shard] = []
    member = 0
    for start in range(0, len(sequences), shard_sequences):
        rows = sequences[start : start + shard_sequences]
        data = _tar(rows, member)
        member += -(-len(rows) // ROWS_PER_MEMBER)
        shard = Shard(
            name=f"{name}-{len(shards):06d}.tar",
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            sequences=len(rows),
        )
        _write_file(folder / shard.name, data)
        shards.append(shard)
        written(len(rows))
    return Split(
        documents=len(documents),
        bytes=sum(len(text) for text in texts),
        tokens=len(tokens),
        sequences=len(sequences),
        gzip_bytes=zipped,
        shards=tuple(shards),
    )


def _tar(rows: np.ndarray, first_member: int) -> bytes:
    """Return a WebDataset shard: up to 128 rows in a member; the same rows, the same bytes."""
    stream = io.BytesIO()
    with TarWriter(stream, encoder=False, mtime=0) as writer:
        for index, start in enumerate(range(0, len(rows), ROWS_PER_MEMBER), first_member):
            array = io.BytesIO()
            part = np.ascontiguousarray(rows[start : start + ROWS_PER_MEMBER])
            np.save(array, part, allow_pickle=False)
            writer.write({"__key__": f"{index:06d}", "tokens.npy": array.getvalue()})
    return stream.getvalue()


@contextmanager
def _folder_that_appears_whole(out: Path, overwrite: bool) -> Iterator[Path]:
    """Give a folder beside `out` to write in; rename it to `out` at the end, or leave nothing."""
    incomplete = out.with_name(f".{out.name}.incomplete")
    replaced = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(incomplete, ignore_errors=True)
    incomplete.mkdir(parents=True)
    try:
        yield incomplete
        _fsync(incomplete)
        _check_free(out, overwrite)  # somebody may have written it meanwhile
        if out.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            out.rename(replaced)
        incomplete.rename(out)
        _fsync(out.parent)
    except BaseException:
        shutil.rmtree(incomplete, ignore_errors=True)
        if replaced.exists() and not out.exists():
            replaced.rename(out)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
