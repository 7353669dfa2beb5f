"""Versions of registered models, as MLflow stores them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.names import is_history, parse_reference
from cluster.tags import BASE_NAME, BASE_VERSION, IMPORTED_FROM, KIND, PARENT, TEACHER
from cluster.tracking.store import answering, connect, tracking_uri
from odeformer.files.shown import masked

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    location: str
    """URI of its files."""
    run_id: str = ""
    """The MLflow run that made it."""
    created: float = 0.0
    """Seconds since the epoch."""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def kind(self) -> str:
        """``checkpoint`` or ``adapter``."""
        return self.tags.get(KIND, "")

    @property
    def base(self) -> str | None:
        """The version that an adapter belongs to, ``models:/<name>/<version>``; ``None`` for a checkpoint."""
        return base_uri(self.tags)

    @property
    def origin(self) -> str | None:
        """An adapter's base, the model that was trained further, the teacher, or what was imported."""
        imported, teacher = self.tags.get(IMPORTED_FROM), self.tags.get(TEACHER)
        return (
            self.base
            or self.tags.get(PARENT)
            or (f"student of {teacher}" if teacher else None)
            or (f"import of {imported}" if imported else None)
        )


def base_uri(tags: Mapping[str, str]) -> str | None:
    """The version that an adapter with these tags belongs to; ``None`` for a checkpoint's tags."""
    return f"models:/{tags[BASE_NAME]}/{tags[BASE_VERSION]}" if BASE_NAME in tags else None


def resolve(model: str, uri: str | None = None) -> Version:
    """The version that ``models:/<name>@<alias>`` or ``models:/<name>/<version>`` refers to.

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
            # Only this call says which version an alias means: a search does not.
            number = client.get_model_version_by_alias(name, reference.alias).version
        entry = client.get_model_version(name, str(number))
    except MlflowException as error:
        # MLflow calls an unknown alias an invalid parameter.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise ConnectionError(f"the MLflow store {masked(uri)} failed: {error.message}") from None
        known = ", ".join(f"models:/{name}" for name in names(client)) or "none yet"
        raise ValueError(
            f"model {model!r} is not in {masked(uri)} ({error.message}); there are: {known}"
        ) from None
    return _version(entry, entry.aliases)


def _version(entry: Any, aliases: Sequence[str]) -> Version:
    return Version(
        str(entry.name),
        str(entry.version),
        tuple(aliases),
        dict(entry.tags),
        str(entry.source),
        str(entry.run_id or ""),
        entry.creation_timestamp / 1000,
    )


def names(client: MlflowClient) -> list[str]:
    """The names of all registered models, without the logs of aliases."""
    models = _all_pages(lambda token: client.search_registered_models(max_results=1000, page_token=token))
    return sorted(model.name for model in models if not is_history(model.name))


def create_model(client: MlflowClient, name: str, description: str | None = None) -> None:
    """Create a registered model if it does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def versions_of(client: MlflowClient, name: str) -> list[Version]:
    """All versions of a model, oldest first, with their aliases."""
    entries = _entries(client, name)
    # A search returns versions without their aliases, so these come from the model.
    numbers = client.get_registered_model(name).aliases
    versions = []
    for entry in entries:
        aliases = [alias for alias, number in numbers.items() if number == entry.version]
        versions.append(_version(entry, aliases))
    return sorted(versions, key=lambda version: int(version.version))


def tags_of_versions(client: MlflowClient, name: str) -> list[dict[str, str]]:
    """The tags of all versions of a model; empty if there is no such model."""
    return [dict(entry.tags) for entry in _entries(client, name)]


def _entries(client: MlflowClient, name: str) -> list[Any]:
    # MLflow's filters know no escape: a name with both quotes can only be found among all.
    quote = next((quote for quote in "'\"" if quote not in name), None)
    wanted = None if quote is None else f"name={quote}{name}{quote}"
    found = _all_pages(lambda token: client.search_model_versions(wanted, max_results=1000, page_token=token))
    entries = [entry for entry in found if entry.name == name]
    # A search of Unity Catalog's returns versions without their tags.
    return [
        entry if isinstance(entry.tags, Mapping) else client.get_model_version(name, entry.version)
        for entry in entries
    ]


def _all_pages(search: Callable[[str | None], Any]) -> list[Any]:
    page = search(None)
    entries = list(page)
    while page.token:
        page = search(page.token)
        entries += page
    return entries


def versions(uri: str | None = None, name: str | None = None) -> list[Version]:
    """All versions of all models, or of one, by name and age.

    Raises:
        ValueError: for an unknown model, naming those there are.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(uri)
    client = connect(uri)
    with answering(uri):
        known = names(client)
        if name is not None and name not in known:
            listed = ", ".join(known) or "none yet"
            raise ValueError(f"there is no model {name!r} in {masked(uri)}; there are: {listed}")
        found: list[Version] = []
        for model in known if name is None else [name]:
            try:
                found += versions_of(client, model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # deleted meanwhile
                    raise
        return found
