"""Relations between versions: ancestors and descendants, outdated adapters, and differences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.registry.aliases import CHAMPION
from cluster.registry.fetching import read_depths, read_settings
from cluster.registry.versions import Version, resolve, versions
from cluster.tags import BASE_NAME, PREFIX


@dataclass(frozen=True)
class Family:
    """A version with its ancestors and direct descendants."""

    version: Version
    ancestors: tuple[Version, ...]
    """Ancestors, the nearest first."""
    root: str | None
    """Origin of the last ancestor, or of the version itself, if that origin is not in the registry."""
    descendants: tuple[Version, ...]


def family(model: str, uri: str | None = None) -> Family:
    """The family of a version.

    Raises:
        ValueError: when there is no such version.
    """
    known = {version.uri: version for version in versions(uri)}
    version = resolve(model, uri)
    ancestors: list[Version] = []
    origin = version.origin
    while origin in known and known[origin] not in ancestors:
        ancestors.append(known[origin])
        origin = known[origin].origin
    children = tuple(other for other in known.values() if other.origin == version.uri)
    return Family(version, tuple(ancestors), origin, children)


def adapters_in_use(base: Version, uri: str | None = None) -> list[Version]:
    """The adapters of a base, sorted by name: of each name the champion, or else the newest."""
    chosen: dict[str, Version] = {}
    for version in versions(uri):  # oldest first
        if version.kind != "adapter" or version.base != base.uri:
            continue
        if CHAMPION not in getattr(chosen.get(version.name), "aliases", ()):
            chosen[version.name] = version
    return [chosen[name] for name in sorted(chosen)]


@dataclass(frozen=True)
class Outdated:
    """An adapter in use whose base is no longer the champion."""

    adapter: Version
    base: str
    champion: str


def outdated(uri: str | None = None) -> list[Outdated]:
    """Adapters whose base is no longer the champion: each model's champion, or else its newest version."""
    known = versions(uri)  # oldest first
    champions = {version.name: version for version in known if CHAMPION in version.aliases}
    newest = {version.name: version for version in known}
    adapters = []
    for adapter in (newest | champions).values():
        champion = champions.get(adapter.tags.get(BASE_NAME, ""))
        if adapter.base is not None and champion is not None and champion.uri != adapter.base:
            adapters.append(Outdated(adapter, adapter.base, champion.uri))
    return sorted(adapters, key=lambda outdated: outdated.adapter.name)


@dataclass(frozen=True)
class Difference:
    """A fact in which two versions differ; ``None`` for the version that lacks it."""

    what: str
    first: str | None
    second: str | None


def diff(first: str, second: str, uri: str | None = None) -> list[Difference]:
    """The tags, settings, and scores by depth in which two versions differ.

    Raises:
        ValueError: when there is no such version.
    """
    facts, other_facts = (_facts(resolve(model, uri), uri) for model in (first, second))
    return [
        Difference(key, facts.get(key), other_facts.get(key))
        for key in dict.fromkeys((*facts, *other_facts))
        if facts.get(key) != other_facts.get(key)
    ]


def _facts(version: Version, uri: str | None) -> dict[str, str]:
    depths = read_depths(version, uri)
    facts = {key.removeprefix(PREFIX): value for key, value in sorted(version.tags.items())}
    facts |= _flat(read_settings(version, uri), "settings.")
    if depths is not None:
        facts |= {
            f"{depths.metric} at N = {row.depth}": f"{row.score:.4f}"
            for row in depths.rows
            if row.score is not None
        }
    return facts


def _flat(content: Mapping[str, Any], prefix: str) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat
