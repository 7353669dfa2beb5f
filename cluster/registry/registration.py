"""Registration: the files of a folder become the next version of a model, exactly once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.names import check_model_name
from cluster.registry import about as description
from cluster.registry import aliases, mlflow_model
from cluster.registry.about import About
from cluster.registry.depth_table import DepthTable, adapter_table, depth_table
from cluster.registry.fetching import read_depths
from cluster.registry.ownership import Owner, check_owner
from cluster.registry.versions import Version, base_uri, create_model, resolve, versions_of
from cluster.tags import CODE_VERSION, DATA_DIGEST, DIGEST, FILES, FORMAT, GIT_COMMIT, KIND, LINEAGE_DIGEST
from cluster.tracking.store import answering, connect, patience
from odeformer.files.digest import file_digest, folder_digest
from odeformer.untrusted import check_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

AS_TAGS = (CODE_VERSION, GIT_COMMIT, DATA_DIGEST)
"""Tags of the run that its version gets as well; the others are in the version's ``lineage.json``."""


def register_version(
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
    """Make the files of a folder the next version of a model. Idempotent: equal files make no second version.

    Args:
        folder: a checkpoint or adapter folder.
        run_id: the MLflow run that made the files; they become its artifacts.
        tags: tags of the version, besides its digest.
        alias: ``champion`` moves that alias to the version; ``candidate`` nominates it, and also makes it
            champion if the model has none.
        about: what is known of the model.
        first: ``False`` does not make a candidate champion even if the model has none.

    Raises:
        ValueError: for a folder with files that do not belong to a model, or a model that holds versions of
            another task, before anything is sent.
        ConnectionError: when the store did not answer. It may have done its part; a repeated call finds that
            by the digest.
    """
    from odeformer.checkpoint import FORMAT_VERSION

    check_model_name(name)
    check_folder(folder)
    digest, about = folder_digest(folder), about or About()
    from_run = {key: about.code[key] for key in AS_TAGS if key in about.code}
    tags = {DIGEST: digest, FILES: mlflow_model.FILES, FORMAT: str(FORMAT_VERSION), **from_run, **tags}
    # Sending weights takes a while. MLflow itself must not retry: each retry would make another version.
    with answering(uri), patience(seconds=300):
        version = _version(folder, name, run_id, uri, tags, about)
        if alias == "candidate":
            aliases.nominate(version, uri, first)
        elif alias is not None:
            aliases.move(version, uri, why="registered as champion")
    return resolve(version.uri, uri)


def _version(folder: Path, name: str, run_id: str, uri: str, tags: dict[str, str], about: About) -> Version:
    client = connect(uri)
    create_model(client, name)
    check_owner(client, name, Owner.of(tags))
    if registered := _with_digest(client, name, tags[DIGEST]):
        return registered[0]

    # A continued run registers again, maybe under another name: its versions must not share a folder.
    place = f"{name}-{tags[DIGEST][:12]}"
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "model"
        mlflow_model.write(package)
        description.write(package, name, tags, about, _depths(folder, uri, tags, about), run_id)
        lineage = {LINEAGE_DIGEST: file_digest(package / description.LINEAGE_FILE)}
        client.log_artifacts(run_id, str(package), place)
    client.log_artifacts(run_id, str(folder), f"{place}/{mlflow_model.FILES}")

    source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
    created = client.create_model_version(
        name, source, run_id, tags={**tags, **lineage}, await_creation_for=None
    )
    first = _with_digest(client, name, tags[DIGEST])[0]
    if first.version != str(created.version):  # another process has registered the same files meanwhile
        client.delete_model_version(name, created.version)
    return first


def _with_digest(client: MlflowClient, name: str, digest: str) -> list[Version]:
    """The versions of a model that have these files, oldest first."""
    return [version for version in versions_of(client, name) if version.tags.get(DIGEST) == digest]


def _depths(folder: Path, uri: str, tags: dict[str, str], about: About) -> DepthTable | None:
    if tags.get(KIND) == "checkpoint":
        return depth_table(folder, about.metric, about.scores)
    base = base_uri(tags)
    if base is None:
        return None
    table = read_depths(resolve(base, uri), uri)
    return None if table is None else adapter_table(table, about.metric, about.scores)
