"""Who descends from whom, which adapters were left behind, and what two versions do not have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.registry.about import BASE_NAME, BASE_VERSION, DEPTHS_FILE, LINEAGE_FILE, PARENT
from cluster.registry.aliases import CHAMPION
from cluster.registry.fetching import read_json
from cluster.registry.versions import Version, resolve, versions


def base_of(version: Version) -> str | None:
    """``models:/…`` that an adapter was made for."""
    if BASE_NAME not in version.tags:
        return None
    return f"models:/{version.tags[BASE_NAME]}/{version.tags[BASE_VERSION]}"


def origin_of(version: Version) -> str | None:
    """What a version was made from: an adapter's base, the model whose training it continued, or the
    checkpoint of others that it was imported from."""
    imported = version.tags.get("odeformer.imported_from")
    return base_of(version) or version.tags.get(PARENT) or (f"import of {imported}" if imported else None)


@dataclass(frozen=True)
class Family:
    """A version, what it comes from, and what was made from it."""

    version: Version
    ancestors: tuple[Version, ...]
    """Its origin first."""
    root: str | None
    """What the last of these, or the version itself, was made from, where that is not in the registry."""
    descendants: tuple[Version, ...]
    """Made from it directly."""


def family(model: str, uri: str | None = None) -> Family:
    """The family of a version.

    Raises:
        ValueError: when it is unknown.
    """
    known = {version.uri: version for version in versions(uri)}
    version = resolve(model, uri)
    ancestors: list[Version] = []
    origin = origin_of(version)
    while origin in known and known[origin] not in ancestors:
        ancestors.append(known[origin])
        origin = origin_of(known[origin])
    children = tuple(other for other in known.values() if origin_of(other) == version.uri)
    return Family(version, tuple(ancestors), origin, children)


@dataclass(frozen=True)
class Outdated:
    """An adapter in use whose base is not the champion any more."""

    adapter: Version
    base: str
    champion: str


def outdated(uri: str | None = None) -> list[Outdated]:
    """Of each adapter's model the champion, else the newest version, where its base has been succeeded."""
    known = versions(uri)
    champions = {version.name: version for version in known if CHAMPION in version.aliases}
    newest = {version.name: version for version in known}  # they come from the oldest
    found = []
    for adapter in (newest | champions).values():
        base, now = base_of(adapter), champions.get(adapter.tags.get(BASE_NAME, ""))
        if base is not None and now is not None and now.uri != base:
            found.append(Outdated(adapter, base, now.uri))
    return sorted(found, key=lambda one: one.adapter.name)


@dataclass(frozen=True)
class Difference:
    """Something that two versions do not have in common; None where one has nothing of the kind."""

    what: str
    first: str | None
    second: str | None


def diff(first: str, second: str, uri: str | None = None) -> list[Difference]:
    """What differs between two versions: tags, settings, scores and costs at each depth.

    Raises:
        ValueError: when one is unknown.
    """
    one, other = (_facts(resolve(model, uri), uri) for model in (first, second))
    return [
        Difference(key, one.get(key), other.get(key))
        for key in dict.fromkeys((*one, *other))
        if one.get(key) != other.get(key)
    ]


def _facts(version: Version, uri: str | None) -> dict[str, str]:
    lineage = read_json(version, LINEAGE_FILE, uri) or {}
    depths = read_json(version, DEPTHS_FILE, uri) or {"rows": []}
    facts = {key.removeprefix("odeformer."): value for key, value in sorted(version.tags.items())}
    facts |= _flat(lineage.get("settings", {}), "settings.")
    for row in depths["rows"]:
        if row["score"] is not None:
            facts[f"{depths['metric']} at N = {row['depth']}"] = f"{row['score']:.4f}"
    return facts


def _flat(content: Mapping[str, Any], prefix: str) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat
