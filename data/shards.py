"""Building a data folder from text: tokenizer, shards (tar files of token sequences) and manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from data import manifest as manifests
from data import tokenizer as tokenizers
from data.building.encode import SPLITS
from data.building.filters import chosen_filters
from data.building.parts import Part, list_parts
from data.building.report import check_is_enough, report_sources, report_split
from data.building.scratch import Run, one_after_the_other, scratch_folder
from data.building.sources import TextSource, as_source
from data.building.steps import Progress, Settings, Steps
from data.manifest import Manifest
from data.tokenizer_config import CONFIG_NAME, tokenizer_config
from odeformer.files.atomic import new_folder
from odeformer.files.checks import Earlier, check_replaceable

DATA_FOLDER = Earlier(
    "a data folder",
    (manifests.FILE_NAME, tokenizers.FILE_NAME, CONFIG_NAME, *(f"{split}-*.tar" for split in SPLITS)),
    lambda folder: (folder / manifests.FILE_NAME).is_file(),
)
BUILD_VERSION = 3
"""Part of a build's key, so that no build continues the tasks of a version with other rules."""


def build(
    paths: Sequence[Path | str | TextSource],
    out: Path,
    *,
    vocabulary_size: int = 2048,
    sequence_length: int = 256,
    held_out: float = 0.05,
    seed: int = 0,
    tokenizer: Path | None = None,
    end_of_text: str | None = None,
    shard_sequences: int | None = None,
    min_bytes: int | None = None,
    max_bytes: int | None = None,
    quality: bool = False,
    near_duplicates: float | None = None,
    overwrite: bool = False,
    progress: Progress = lambda stage, fraction: None,
    encoded: Callable[[int], None] = lambda tokens: None,
    run: Run = one_after_the_other,
) -> Manifest:
    """Build a data folder from sources of text, and return its manifest.

    Documents are shuffled in an order that depends on their texts and the seed alone. Those of each split
    form one stream of tokens, with an end-of-text after each, which is cut into sequences of
    ``sequence_length`` + 1 tokens that overlap by one; an incomplete last sequence is dropped. Exact
    duplicates are left out.

    The folder is written atomically. If a build is killed, calling it again with the same arguments and files
    continues from its finished tasks, which are in a hidden folder beside ``out``. The same input gives the
    same bytes, whatever ``run`` is. Memory does not grow with the corpus, except for 32 bytes per document
    with ``near_duplicates``.

    Args:
        paths: files, folders, addresses or sources with options.
        out: the folder to write.
        vocabulary_size: vocabulary size of the tokenizer to train.
        sequence_length: number of predicted tokens per sequence.
        held_out: fraction of the documents in the validation split.
        seed: the seed of the order of documents.
        tokenizer: a tokenizer.json to use instead of training one.
        end_of_text: the token of ``tokenizer`` that ends a document, if it cannot be detected.
        shard_sequences: sequences per shard; when not given, shards grow with the corpus up to 64 MiB.
        min_bytes: minimum UTF-8 bytes of a document. (A long text file is several documents.)
        max_bytes: maximum UTF-8 bytes of a document.
        quality: whether documents must pass the quality rules of ``data.building.filters``.
        near_duplicates: similarity from which on only one of several documents is kept, in either split: the
            estimated fraction of five-word phrases that they share. (Of pairs with exactly this similarity,
            one in fifty is missed.)
        overwrite: whether to replace an existing data folder.
        progress: called with a stage (reading, comparing, tokenizer, encoding, writing) and its fraction
            done.
        encoded: called with numbers of tokens as they are encoded.
        run: runs the tasks of a step, in this process or on several workers.

    Raises:
        ValueError: for invalid arguments or text, an existing ``out`` without ``overwrite``, or too little
        text.
        FileNotFoundError: for a missing path.
        OSError: if a remote store does not answer.
    """
    sources = [as_source(path) for path in paths]
    _check_arguments(sources, sequence_length, shard_sequences, held_out)
    filters = chosen_filters(min_bytes, max_bytes, quality, near_duplicates)
    tokenizer_content = config_content = None
    if tokenizer is not None:
        tokenizer_content = tokenizers.read_json(tokenizer, end_of_text)
        config_content = tokenizer_config(tokenizer, end_of_text)
    elif end_of_text is not None:
        raise ValueError("end_of_text is for a given tokenizer: give one too, or leave it out")
    else:
        tokenizers.check_vocabulary_size(vocabulary_size)
    out = out.resolve()
    check_free(out, overwrite)
    progress("reading", 0.0)
    parts = [part for index, source in enumerate(sources) for part in list_parts(index, source)]

    settings = Settings(
        vocabulary_size, sequence_length, held_out, seed, filters, tokenizer_content, shard_sequences
    )
    with scratch_folder(out, _key(settings, parts)) as folder:
        steps = Steps(settings, folder, run, progress, encoded)
        scanned = steps.scan(parts)
        check_is_enough(sources, scanned, held_out)
        if filters and filters.near_duplicates:
            steps.compare(filters.near_duplicates)
        tokenizer_file, trained = steps.train()
        dtype: Literal["uint16", "uint32"] = "uint16" if trained.vocabulary_size <= 2**16 else "uint32"
        taken = steps.encode(tokenizer_file, dtype)
        written, gzip_bytes = steps.write(taken, dtype)

        with new_folder(out, check=lambda: check_free(out, overwrite)) as whole:
            for split in SPLITS:
                for file in written[split].files:
                    file.rename(whole / file.name)
            tokenizer_json = tokenizer_file.read_bytes()
            (whole / tokenizers.FILE_NAME).write_bytes(tokenizer_json)
            if config_content is not None:
                (whole / CONFIG_NAME).write_bytes(config_content)
            finished = Manifest(
                format_version=manifests.FORMAT_VERSION,
                sequence_length=sequence_length,
                vocabulary_size=trained.vocabulary_size,
                end_of_text=trained.end_of_text,
                dtype=dtype,
                tokenizer_sha256=hashlib.sha256(tokenizer_json).hexdigest(),
                seed=seed,
                held_out=held_out,
                filters=filters,
                sources=report_sources(sources, scanned, taken, filters),
                splits={
                    split: report_split(split, taken, written[split].shards, gzip_bytes) for split in SPLITS
                },
            )
            text = finished.model_dump_json(indent=1) + "\n"
            (whole / manifests.FILE_NAME).write_text(text, encoding="utf-8")
    return finished


def check_free(out: Path, overwrite: bool) -> None:
    """Refuse an output folder whose content would be lost.

    Raises:
        ValueError: for a non-empty folder without ``overwrite``, one that is not a data folder, or one that
        holds anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"{out} exists: choose another folder, or overwrite it explicitly")
    if out == Path.cwd():
        raise ValueError(f"{out} is the current folder: choose another")
    if not (out / manifests.FILE_NAME).is_file():
        raise ValueError(f"{out} exists and is not a data folder (no manifest): choose another")
    check_replaceable(out, DATA_FOLDER)


def input_bytes(paths: Sequence[Path | str | TextSource]) -> int:
    """The approximate number of bytes that a build would read, before decompression.

    Raises:
        FileNotFoundError, OSError, ValueError: for sources that cannot be read.
    """
    sources = [as_source(path) for path in paths]
    return sum(part.bytes for index, source in enumerate(sources) for part in list_parts(index, source))


def _check_arguments(
    sources: Sequence[TextSource], sequence_length: int, shard_sequences: int | None, held_out: float
) -> None:
    if not sources:
        raise ValueError("no text was given: name at least one file or folder")
    if sequence_length < 1:
        raise ValueError(f"sequence_length is {sequence_length}: it must be at least 1")
    if shard_sequences is not None and shard_sequences < 1:
        raise ValueError(f"shard_sequences is {shard_sequences}: it must be at least 1")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is {held_out}: it must be a fraction between 0 and 1, as 0.05")


def _key(settings: Settings, parts: Sequence[Part]) -> str:
    """The key of a build: finished tasks are only continued by a build with the same key."""
    digest = hashlib.sha256(repr((BUILD_VERSION, settings)).encode("utf-8"))
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
