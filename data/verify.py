"""Compare a folder of shards with its manifest."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from data.files import check_tokenizer, size_problems
from data.manifest import Manifest, Shard, load_manifest
from data.reader import DamagedError, decode


def verify(folder: Path, deep: bool, progress: Callable[[float], None] = lambda fraction: None) -> list[str]:
    """Return what is wrong with a folder of shards, a line for each problem; none if it is whole.

    Sizes, the tokenizer and files that nobody listed are always looked at; `deep` reads every byte
    and decodes every member. Raises FileNotFoundError or ValueError without a valid manifest.
    """
    manifest = load_manifest(folder)
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    problems = size_problems(folder, shards)
    known = {shard.name for shard in shards}
    problems += [
        f"{f.name} is not in the manifest" for f in sorted(folder.glob("*.tar")) if f.name not in known
    ]
    try:
        check_tokenizer(folder, manifest)
    except ValueError as error:
        problems.append(str(error).split(": ")[1])
    if deep:
        total, done = sum(shard.bytes for shard in shards), 0
        for shard in shards:
            problems += _read(folder / shard.name, shard, manifest)
            done += shard.bytes
            progress(done / total)
    return problems


def _read(file: Path, shard: Shard, manifest: Manifest) -> list[str]:
    """Return the problems in the bytes of one shard that has its size."""
    if not file.is_file() or file.stat().st_size != shard.bytes:
        return []  # said already
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
