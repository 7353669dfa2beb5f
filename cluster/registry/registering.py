"""Into the registry: files become the next version of a model, once, with all that is known of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.names import check_model_name
from cluster.registry import about as description
from cluster.registry import aliases, mlflow_model
from cluster.registry.about import BASE_NAME, BASE_VERSION, DIGEST, FORMAT, About
from cluster.registry.depth_table import DepthTable, adapter_table, depth_table
from cluster.registry.fetching import read_json
from cluster.registry.versions import FILES, Version, resolve, versions_of
from cluster.tracking.store import answering, connect, patience
from odeformer.files.digest import folder_digest
from odeformer.untrusted import check_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

AS_TAGS = ("odeformer.version", "odeformer.git_commit", description.DATA_DIGEST)
"""What of the run is worth a tag of the version; the rest is in its ``lineage.json``."""


def register(
    folder: Path,
    name: str,
    *,
    run_id: str,
    uri: str,
    tags: dict[str, str],
    alias: Literal["candidate", "champion"] | None = None,
    about: About | None = None,
    first: bool = True,
) -> Version:
    """Make the files of ``folder`` the next version of ``name``; the same files again make no second one.

    Args:
        folder: a checkpoint or adapter folder.
        run_id: the MLflow run that made it; the files become its artifacts.
        uri: the MLflow store.
        tags: of the version, beside its digest.
        alias: ``champion`` makes it that whatever was; ``candidate`` so that it waits to become it, and
            makes it champion where there is none.
        about: what is known of the model.
        first: False: a candidate is not champion even where there is none.

    Raises:
        ValueError: for a folder with files that are not a model's, before anything is sent.
        ConnectionError: when the store did not answer. It may have done what it was asked; asked again, it
            finds that by the digest.
    """
    check_model_name(name)
    check_folder(folder)
    digest, about = folder_digest(folder), about or About()
    chosen = {key: about.code[key] for key in AS_TAGS if key in about.code}
    tags = {DIGEST: digest, FILES: mlflow_model.FILES, FORMAT: _format(), **chosen, **tags}
    # Weights take a while to send. No retries of MLflow's own: each would be a version more.
    with answering(uri), patience(seconds=300):
        version = _version(folder, name, run_id, uri, tags, about)
        if alias == "candidate":
            aliases.nominate(version, uri, first)
        elif alias is not None:
            aliases.move(version, uri, why="registered as champion")
    return resolve(version.uri, uri)


def _version(folder: Path, name: str, run_id: str, uri: str, tags: dict[str, str], about: About) -> Version:
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if there := _with_digest(client, name, tags[DIGEST]):
        return there[0]
    # A run that is continued registers again, or under another name: versions must not share a place.
    place = f"{name}-{tags[DIGEST][:12]}"
    _send(client, folder, name, run_id, uri, tags, about, place)
    source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
    made = client.create_model_version(name, source, run_id, tags=tags, await_creation_for=None)
    first = _with_digest(client, name, tags[DIGEST])[0]
    if first.version != str(made.version):  # another process has registered the same files meanwhile
        client.delete_model_version(name, made.version)
    return first


def _with_digest(client: MlflowClient, name: str, digest: str) -> list[Version]:
    """The versions that are these files, from the oldest."""
    return [version for version in versions_of(client, name) if version.tags.get(DIGEST) == digest]


def _send(
    client: MlflowClient,
    folder: Path,
    name: str,
    run_id: str,
    uri: str,
    tags: dict[str, str],
    about: About,
    place: str,
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        around = Path(scratch) / "model"
        mlflow_model.write(around)
        description.write(around, name, tags, about, _depths(folder, uri, tags, about), run_id)
        client.log_artifacts(run_id, str(around), place)
    client.log_artifacts(run_id, str(folder), f"{place}/{mlflow_model.FILES}")


def _depths(folder: Path, uri: str, tags: dict[str, str], about: About) -> DepthTable | None:
    if tags.get("odeformer.kind") == "checkpoint":
        return depth_table(folder, about.metric, about.scores)
    if BASE_NAME not in tags:
        return None
    base = read_json(
        resolve(f"models:/{tags[BASE_NAME]}/{tags[BASE_VERSION]}", uri), description.DEPTHS_FILE, uri
    )
    return None if base is None else adapter_table(base, about.metric, about.scores)


def _format() -> str:
    from odeformer.checkpoint import FORMAT_VERSION

    return str(FORMAT_VERSION)
