"""The model registry: the only hand-over between pretraining, fine-tuning and use. MLflow's, with digests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.tracking import answering, connect, patience, tracking_uri
from odeformer.folder import folder_digest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from odeformer.model import Odeformer

DIGEST = "odeformer.digest"
"""Tag: the identity of a version's files."""
BASE_NAME, BASE_VERSION, BASE_DIGEST = (
    "odeformer.base_name",
    "odeformer.base_version",
    "odeformer.base_digest",
)
"""Tags of an adapter's version: the model it was made for."""


def check_name(name: str) -> None:
    """Refuse a name that ``models:/<name>`` could not stand for.

    Raises:
        ValueError: with what a name may be.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", name):
        raise ValueError(f"model name {name!r}: letters, digits, - and _ only, at most 63")


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    location: str
    """Where its files are: a URI."""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def register(
    folder: Path, name: str, *, run_id: str, uri: str, tags: dict[str, str], alias: str | None = None
) -> Version:
    """Make the files of ``folder`` the next version of ``name``; the same files again make no second one.

    Args:
        folder: a checkpoint or adapter folder.
        run_id: the MLflow run that made it; the files become its artifacts.
        uri: the MLflow store.
        tags: of the version, beside its digest.
        alias: to point to the version, such as ``champion``.

    Raises:
        ConnectionError: when the store did not answer. It may have done what it was asked; asked again, it
            finds that by the digest.
    """
    check_name(name)
    digest = folder_digest(folder)
    # Weights take a while to send. No retries of MLflow's own: each would be a version more.
    with answering(uri), patience(seconds=300):
        return _register(folder, name, run_id, uri, {DIGEST: digest, **tags}, alias)


def _register(
    folder: Path, name: str, run_id: str, uri: str, tags: dict[str, str], alias: str | None
) -> Version:
    from mlflow.exceptions import MlflowException

    client, digest = connect(uri), tags[DIGEST]
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = [v for v in client.search_model_versions(f"name='{name}'") if v.tags.get(DIGEST) == digest]
    if known:
        version = known[0].version
    else:
        # A run that is continued registers again: its versions must not share a place.
        place = f"model-{digest[:12]}"
        client.log_artifacts(run_id, str(folder), place)
        source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
        version = client.create_model_version(name, source, run_id, tags=tags).version
    if alias:
        client.set_registered_model_alias(name, alias, version)
    return resolve(f"models:/{name}/{version}", uri)


def resolve(model: str, uri: str | None = None) -> Version:
    """The version that ``models:/<name>@<alias>`` or ``models:/<name>/<version>`` stands for.

    Raises:
        ValueError: for a malformed or unknown model, naming the models there are.
    """
    from mlflow.exceptions import MlflowException

    match = re.fullmatch(r"models:/([A-Za-z0-9_-]+)(?:@([A-Za-z0-9_-]+)|/([0-9]+))", model)
    if match is None:
        raise ValueError(f"model {model!r}: expected models:/<name>@<alias> or models:/<name>/<version>")
    name, alias, number = match.groups()
    uri = tracking_uri(uri)
    client = connect(uri)
    try:
        if alias:
            # An alias is the only thing that says which version it is: a search returns none.
            number = client.get_model_version_by_alias(name, alias).version
        found = client.get_model_version(name, str(number))
    except MlflowException as error:
        # MLflow calls an unknown alias an invalid parameter.
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise ConnectionError(f"the MLflow store {uri} failed: {error.message}") from None
        known = ", ".join(f"models:/{m.name}" for m in client.search_registered_models()) or "none yet"
        raise ValueError(f"model {model!r} is not in {uri} ({error.message}); there are: {known}") from None
    return Version(name, str(found.version), tuple(found.aliases), dict(found.tags), str(found.source))


def fetch(model: str, uri: str | None = None) -> Path:
    """A local folder with the files of ``models:/<name>@<alias>`` or ``models:/<name>/<version>``, verified.

    Raises:
        ValueError: when the model is unknown, or its files are not those that were registered.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(uri)
    version = resolve(model, uri)
    try:
        folder = Path(download_artifacts(artifact_uri=version.location, tracking_uri=uri))
    except (MlflowException, OSError) as error:
        raise ValueError(f"{version.uri}: its files are not at {version.location} ({error})") from None
    digest = folder_digest(folder)
    if digest != version.tags.get(DIGEST):
        raise ValueError(
            f"{version.uri}: the files in {folder} have digest {digest}, "
            f"registered was {version.tags.get(DIGEST)}; they were changed or damaged since"
        )
    return folder


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, and where it came from."""

    model: Odeformer
    tokenizer: Tokenizer
    folder: Path
    """The checkpoint's files; an adapter's are elsewhere."""
    versions: tuple[Version, ...]
    """What the registry knows of it: the adapter, if there is one, then the checkpoint. Empty for folders."""


def load(model: str, uri: str | None = None, adapter: str | None = None) -> Loaded:
    """A model with its tokenizer; an adapter comes attached to the base it was made for.

    Args:
        model: ``models:/<name>@<alias>``, ``models:/<name>/<version>``, or a checkpoint folder; a registered
            adapter stands for its base with it.
        uri: the MLflow store.
        adapter: one to attach, the registry's or a folder.

    Raises:
        ValueError, FileNotFoundError: when it is unknown, damaged, or an adapter of another base.
    """
    import odeformer
    from data.tokenizer import load_tokenizer

    known: list[Version] = []

    def files(name: str) -> Path:
        if not name.startswith("models:/"):
            return Path(name)
        known.append(resolve(name, uri))
        return fetch(known[-1].uri, uri)

    if adapter is None and model.startswith("models:/"):
        version = resolve(model, uri)
        if version.tags.get("odeformer.kind") == "adapter":
            adapter = version.uri
            model = f"models:/{version.tags[BASE_NAME]}/{version.tags[BASE_VERSION]}"
    adapter_folder = None if adapter is None else files(adapter)
    folder = files(model)
    return Loaded(odeformer.load(folder, adapter_folder), load_tokenizer(folder), folder, tuple(known))


def versions(uri: str | None = None) -> list[Version]:
    """All versions of all models, by name and age."""
    client = connect(tracking_uri(uri))
    names = [model.name for model in client.search_registered_models()]
    found = [v for name in names for v in client.search_model_versions(f"name='{name}'")]
    resolved = [resolve(f"models:/{v.name}/{v.version}", uri) for v in found]
    return sorted(resolved, key=lambda v: (v.name, int(v.version)))
