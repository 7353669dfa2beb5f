"""Build a folder of shards: sources of text in; tokenizer, token sequences in tar files and manifest out."""

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
from odeformer.files.atomic import new_folder

BUILD_VERSION = 2  # part of what names a build: another program must not go on with this one's tasks


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
    """Turn sources of text into a folder of verified shards, and return its manifest.

    The documents, in an order that depends on their texts and the seed alone, are one stream of tokens
    for each split (each document followed by end-of-text), cut into sequences of `sequence_length` + 1
    tokens that overlap by one; the tail that does not fill a sequence is dropped. Exact duplicates are
    left out. `tokenizer` is an existing tokenizer.json to use instead of training one, `vocabulary_size`
    then plays no part; `end_of_text` names the token that ends a document, where it is not a usual one.
    `shard_sequences` are in a shard; without it, shards grow with the corpus, up to 64 MiB.

    In neither split are documents of fewer than `min_bytes` or more than `max_bytes` UTF-8 bytes and, with
    `quality`, those that break a rule of `data.building.filters`. (A long text file is many documents.) Of
    documents whose sets of five-word phrases share a part of at least `near_duplicates`, as estimated, one
    is kept, so that no held-out document has a near copy in training. (Of pairs that are just so similar,
    one in fifty is missed.)

    `progress(stage, fraction)` is called with the stages reading, comparing, tokenizer, encoding and
    writing, and `encoded` with numbers of tokens as they are made. `run` runs the tasks, as
    `one_after_the_other` does; however many workers share them, the same input gives the same bytes. Memory
    does not grow with the corpus, but for 32 bytes a document where near duplicates are left out.

    The folder appears as a whole or not at all. A build that was killed goes on, called again with the
    same arguments and files, from its finished tasks in a hidden folder beside `out`.

    Raises ValueError for unusable arguments or text, an existing `out` (unless `overwrite`) and too
    little text; FileNotFoundError for a missing path; OSError when a remote store does not answer.
    """
    sources = [as_source(path) for path in paths]
    _check_arguments(sources, sequence_length, shard_sequences, held_out)
    filters = chosen_filters(min_bytes, max_bytes, quality, near_duplicates)
    given = None
    if tokenizer is not None:
        given = tokenizers.to_json(tokenizers.load_tokenizer(tokenizer, end_of_text))
    elif end_of_text is not None:
        raise ValueError("end_of_text is for a given tokenizer: give one too, or leave it out")
    else:
        tokenizers.check_vocabulary_size(vocabulary_size)
    out = out.resolve()
    check_free(out, overwrite)
    progress("reading", 0.0)
    parts = [part for index, source in enumerate(sources) for part in list_parts(index, source)]

    settings = Settings(vocabulary_size, sequence_length, held_out, seed, filters, given, shard_sequences)
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
    """Refuse a folder whose content somebody may need.

    Raises:
        ValueError: for one that is not empty, without ``overwrite`` or without a manifest of shards in it.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"{out} exists: choose another folder, or overwrite it explicitly")
    if not (out / manifests.FILE_NAME).is_file():
        raise ValueError(f"{out} exists and is not a data folder (no manifest): choose another")


def input_bytes(paths: Sequence[Path | str | TextSource]) -> int:
    """Return about how many bytes a build would read, before decompression.

    Raises what `build` does for sources that it cannot read.
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
    """Name a build: with another name, nothing that is half done may be used."""
    digest = hashlib.sha256(repr((BUILD_VERSION, settings)).encode("utf-8"))
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
