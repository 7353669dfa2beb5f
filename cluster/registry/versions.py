"""Versions of registered models: MLflow's, with the digests of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.names import parse_reference
from cluster.tracking.store import connect, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

FILES = "odeformer.files"
"""Tag: where in a version's folder its checkpoint or adapter lies; the folder itself where there is none."""
HISTORY = ".history"
"""Ends the name of the registered model that is no model, but the log of another's aliases."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    location: str
    """Where its files are: a URI."""
    run_id: str = ""
    """The MLflow run that made it."""
    created: float = 0.0
    """Seconds since 1970."""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def kind(self) -> str:
        """``checkpoint`` or ``adapter``."""
        return self.tags.get("odeformer.kind", "")


def resolve(model: str, uri: str | None = None) -> Version:
    """The version that ``models:/<name>@<alias>`` or ``models:/<name>/<version>`` stands for.

    Raises:
        ValueError: for a malformed or unknown model, naming the models there are.
    """
    reference = parse_reference(model)
    name, number = reference.name, reference.version
    uri = tracking_uri(uri)
    client = connect(uri)
    from mlflow.exceptions import MlflowException

    try:
        if reference.alias:
            # An alias is the only thing that says which version it is: a search returns none.
            number = client.get_model_version_by_alias(name, reference.alias).version
        found = client.get_model_version(name, str(number))
    except MlflowException as error:
        # MLflow calls an unknown alias an invalid parameter.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise ConnectionError(f"the MLflow store {uri} failed: {error.message}") from None
        known = ", ".join(f"models:/{name}" for name in names(client)) or "none yet"
        raise ValueError(f"model {model!r} is not in {uri} ({error.message}); there are: {known}") from None
    return _version(found, found.aliases)


def _version(found: Any, aliases: Sequence[str]) -> Version:
    return Version(
        str(found.name),
        str(found.version),
        tuple(aliases),
        dict(found.tags),
        str(found.source),
        str(found.run_id or ""),
        found.creation_timestamp / 1000,
    )


def names(client: MlflowClient) -> list[str]:
    """Of all registered models, the logs of aliases aside."""
    found, token = [], None
    while True:
        page = client.search_registered_models(max_results=1000, page_token=token)
        found += [model.name for model in page if not model.name.endswith(HISTORY)]
        token = page.token
        if not token:
            return sorted(found)


def versions_of(client: MlflowClient, name: str) -> list[Version]:
    """All versions of a model, from the oldest, with their aliases."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name='{name}'", max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    # A search returns versions without their aliases, but with their model's.
    aliases = client.get_registered_model(name).aliases
    made = [_version(one, [a for a, number in aliases.items() if number == one.version]) for one in found]
    return sorted(made, key=lambda version: int(version.version))


def versions(uri: str | None = None, name: str | None = None) -> list[Version]:
    """All versions of all models, or of one, by name and age.

    Raises:
        ValueError: for a model that is not there, naming those that are.
    """
    client = connect(tracking_uri(uri))
    known = names(client)
    if name is not None and name not in known:
        there = ", ".join(known) or "none yet"
        raise ValueError(f"there is no model {name!r} in {tracking_uri(uri)}; there are: {there}")
    chosen = known if name is None else [name]
    return [version for model in chosen for version in versions_of(client, model)]
