"""The manifest's entries of sources and splits, from the results of the steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from data.building.encode import Counts, Encoded
from data.building.filters import rule_names
from data.building.scan import Scanned, ScannedSource, source_digest
from data.building.sources import HUGGING_FACE, TextSource
from data.manifest import Filters, Shard, Source, Split, SplitName


def check_is_enough(sources: Sequence[TextSource], scanned: Sequence[Scanned], held_out: float) -> None:
    """Refuse a source without text, and too few documents for both splits.

    Raises:
        ValueError: naming the source, or the numbers of documents.
    """
    totals = [_scanned_source(index, scanned) for index in range(len(sources))]
    for source, facts in zip(sources, totals, strict=True):
        if not facts.documents and (left_out := sum(facts.filtered.values())):
            raise ValueError(
                f"{public_name(source)} has nothing left: all of its {left_out} texts broke a rule "
                f"({', '.join(sorted(facts.filtered))}): loosen the filters or leave it out"
            )
        if not facts.documents:
            raise ValueError(f"{public_name(source)} is empty: give something with text in it")
    validation, train = sum(facts.held_out for facts in totals), sum(facts.train for facts in totals)
    if not (train and validation):
        raise ValueError(
            f"text too small: of {sum(facts.documents for facts in totals)} documents, {validation} are held "
            f"out at held_out={held_out} and {train} are for training, and each side needs one: give more "
            "text or another fraction"
        )


def report_sources(
    sources: Sequence[TextSource],
    scanned: Sequence[Scanned],
    encoded: Sequence[Encoded],
    filters: Filters | None,
) -> tuple[Source, ...]:
    """The manifest's entry of each source."""
    entries = []
    rules = rule_names(filters) if filters else []
    for index, source in enumerate(sources):
        facts = _scanned_source(index, scanned)
        counts = [result.sources[index] for result in encoded if index in result.sources]
        alone = Path(source.path).is_file() or (
            source.is_remote and [public_name(source)] == [file.name for file in facts.files]
        )
        entries.append(
            Source(
                path=public_name(source),
                bytes=sum(file.bytes for file in facts.files),
                sha256=source_digest(facts.files, alone),
                licence=source.licence,
                weight=source.weight,
                empty=facts.empty,
                filtered={rule: facts.filtered.get(rule, 0) for rule in rules},
                **{name: sum(getattr(count, name) for count in counts) for name in Counts.model_fields},
            )
        )
    return tuple(entries)


def report_split(
    split: SplitName, encoded: Sequence[Encoded], shards: tuple[Shard, ...], gzip_bytes: int
) -> Split:
    """The manifest's entry of a split."""
    parts = [result.splits[split] for result in encoded]
    return Split(
        documents=sum(part.documents for part in parts),
        bytes=sum(part.bytes for part in parts),
        tokens=sum(part.tokens for part in parts),
        sequences=sum(shard.sequences for shard in shards),
        gzip_bytes=gzip_bytes if split == "validation" else None,
        shards=shards,
    )


def public_name(source: TextSource) -> str:
    """A source's name without the folders above it, or the secrets in an address."""
    if source.is_hugging_face:
        name = source.path.removeprefix(HUGGING_FACE)
        return HUGGING_FACE + (Path(name).resolve().name if Path(name).exists() else name)
    if source.is_remote:
        return urlsplit(source.path).path.rstrip("/").rpartition("/")[2] or urlsplit(source.path).netloc
    return Path(source.path).resolve().name


def _scanned_source(index: int, scanned: Sequence[Scanned]) -> ScannedSource:
    """The sum of all tasks' results for a source."""
    results = [result.sources[index] for result in scanned if index in result.sources]
    return ScannedSource(
        documents=sum(result.documents for result in results),
        empty=sum(result.empty for result in results),
        filtered=dict(sum((Counter(result.filtered) for result in results), Counter())),
        held_out=sum(result.held_out for result in results),
        train=sum(result.train for result in results),
        files=list(chain.from_iterable(result.files for result in results)),
    )
