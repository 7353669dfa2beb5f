"""What was taken and what was left out, for the manifest."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from data.building.encode import Counts, Encoded
from data.building.filters import rule_names
from data.building.scan import Scanned, ScannedSource, source_digest
from data.building.sources import HUGGING_FACE, TextSource
from data.manifest import Filters, Shard, Source, Split, SplitName


def check_is_enough(sources: Sequence[TextSource], scanned: Sequence[Scanned], held_out: float) -> None:
    """Raise ValueError for a source without any text, and for too few documents to have both splits."""
    found = [_scanned_source(index, scanned) for index in range(len(sources))]
    for source, facts in zip(sources, found, strict=True):
        if not facts.documents and (left_out := sum(facts.filtered.values())):
            raise ValueError(
                f"{public_name(source)} has nothing left: all of its {left_out} texts broke a rule "
                f"({', '.join(sorted(facts.filtered))}): loosen the filters or leave it out"
            )
        if not facts.documents:
            raise ValueError(f"{public_name(source)} is empty: give something with text in it")
    validation, train = sum(facts.held_out for facts in found), sum(facts.train for facts in found)
    if not (train and validation):
        raise ValueError(
            f"text too small: of {sum(facts.documents for facts in found)} documents, {validation} are held "
            f"out at held_out={held_out} and {train} are for training, and each side needs one: give more "
            "text or another fraction"
        )


def report_sources(
    sources: Sequence[TextSource],
    scanned: Sequence[Scanned],
    encoded: Sequence[Encoded],
    filters: Filters | None,
) -> tuple[Source, ...]:
    """Return the manifest's entry of each source."""
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
    """Return the manifest's entry of a split."""
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
    """Return a source's name without the folders above it, and without anything secret of an address."""
    if source.is_hugging_face:
        name = source.path.removeprefix(HUGGING_FACE)
        return HUGGING_FACE + (Path(name).resolve().name if Path(name).exists() else name)
    if source.is_remote:
        return urlsplit(source.path).path.rstrip("/").rpartition("/")[2] or urlsplit(source.path).netloc
    return Path(source.path).resolve().name


def _scanned_source(index: int, scanned: Sequence[Scanned]) -> ScannedSource:
    """Put together what all tasks found in a source."""
    found = [result.sources[index] for result in scanned if index in result.sources]
    return ScannedSource(
        documents=sum(part.documents for part in found),
        empty=sum(part.empty for part in found),
        filtered=dict(sum((Counter(part.filtered) for part in found), Counter())),
        held_out=sum(part.held_out for part in found),
        train=sum(part.train for part in found),
        files=[file for part in found for file in part.files],
    )
