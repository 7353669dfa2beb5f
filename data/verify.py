"""Verification of a data folder against its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from data.files import size_problems, tokenizer_problem
from data.manifest import Manifest, Shard, load_manifest
from data.reader import DamagedError, decode


def verify(folder: Path, deep: bool, progress: Callable[[float], None] = lambda fraction: None) -> list[str]:
    """The problems of a data folder, one message each; empty if the folder is intact.

    Args:
        folder: the data folder.
        deep: whether to read and decode all shards, beyond checking sizes, the tokenizer and unknown files.
        progress: called with the fraction of bytes read.

    Raises:
        FileNotFoundError, ValueError: without a valid manifest.
    """
    manifest = load_manifest(folder)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    problems = size_problems(folder, shards)
    known = {shard.name for shard in shards}
    problems += [
        f"{f.name} is not in the manifest" for f in sorted(folder.glob("*.tar")) if f.name not in known
    ]
    if problem := tokenizer_problem(folder, manifest):
        problems.append(problem)
    if deep:
        total, done = sum(shard.bytes for shard in shards), 0
        for shard in shards:
            problems += _read(folder / shard.name, shard, manifest)
            done += shard.bytes
            progress(done / total)
    return problems


def _read(file: Path, shard: Shard, manifest: Manifest) -> list[str]:
    """The problems in the bytes of a shard that has the right size."""
    if not file.is_file() or file.stat().st_size != shard.bytes:
        return []  # reported already
    problems = []
    whole = hashlib.sha256()
    with file.open("rb") as stream:
        for number, member in enumerate(shard.members):
            data = stream.read(member.bytes)
            whole.update(data)
            place = f"{shard.name}, member {number}"
            if hashlib.sha256(data).hexdigest() != member.sha256:
                problems.append(f"{place}: its SHA-256 is not that of the manifest")
                continue
            try:
                decode(place, data, member, manifest)
            except DamagedError as error:
                problems.append(str(error))
        whole.update(stream.read())
    if not problems and whole.hexdigest() != shard.sha256:
        problems.append(f"{shard.name}: its SHA-256 is not that of the manifest")
    return problems
