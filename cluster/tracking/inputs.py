"""The datasets of a run, as MLflow shows them in its page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from data.manifest import Manifest
from data.remote import is_remote
from odeformer.files.shown import masked

DIGEST_CHARACTERS = 36
"""Characters of a digest that MLflow's databases have room for."""


@dataclass(frozen=True)
class DatasetInput:
    """A dataset that a run reads."""

    name: str
    digest: str
    """The first characters of the SHA-256."""
    source_type: str
    source: str
    """JSON with the address."""
    profile: str
    """JSON with counts."""
    use: str
    """``training`` or ``validation``."""


def dataset_input(
    name: str, sha256: str, address: str, counts: Mapping[str, object], use: str
) -> DatasetInput:
    """A dataset at an address, which is noted without its password.

    Args:
        name: what is read there.
        use: ``training`` or ``validation``, which MLflow shows beside the name.
    """
    kind = address.partition("://")[0] if is_remote(address) else "local"
    source = json.dumps({"uri": masked(address)})
    # MLflow takes two uses of one name and digest for one dataset.
    return DatasetInput(f"{name}/{use}", sha256[:DIGEST_CHARACTERS], kind, source, json.dumps(counts), use)


def shard_inputs(address: str, manifest: Manifest) -> list[DatasetInput]:
    """The two splits of shards, with the counts in their manifest.

    Args:
        address: folder or address of the shards.
    """
    name, digest = address.rstrip("/").rpartition("/")[2], manifest.digest()
    inputs = []
    for split, whole in manifest.splits.items():
        counts = {
            **whole.model_dump(include={"documents", "bytes", "tokens", "sequences"}),
            "sources": {
                source.path: source.train if split == "train" else source.held_out
                for source in manifest.sources
            },
        }
        use = "training" if split == "train" else split
        inputs.append(dataset_input(name, digest, address, counts, use))
    return inputs
