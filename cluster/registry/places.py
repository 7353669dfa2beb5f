"""The allowed places of a version's files: below the artifacts of the store, and not too large for here."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from cluster.registry.versions import Version
from cluster.tracking.store import answering, artifacts_of, connect
from odeformer.files.shown import masked
from odeformer.untrusted import HARMLESS, LARGEST_JSON

PROXIED = "mlflow-artifacts"
"""Scheme of files that the MLflow server itself reads."""


def is_local(location: str) -> bool:
    """Whether files are in a folder of this machine."""
    return urlsplit(location).scheme in ("", "file")


def check_place(version: Version, uri: str) -> None:
    """Refuse a version whose files are outside of the store's artifacts.

    Whoever creates a version chooses where its files are, and they are read with the keys of whoever uses it.
    The store's artifacts are where its experiment 0 is. If that is a local folder, which experiments of other
    places often join, the artifacts of the run that made the version count as well.

    Raises:
        ValueError: naming the place.
        ConnectionError: when the store does not answer.
    """
    from mlflow.exceptions import MlflowException

    location = version.location
    if ".." in PurePosixPath(unquote(location)).parts:
        raise ValueError(f"{version.uri} is refused: its files are at {masked(location)}, which has a '..'")
    parts = urlsplit(location)
    if parts.scheme == PROXIED and parts.netloc in ("", urlsplit(uri).netloc.rpartition("@")[2]):
        return
    with answering(uri):
        client = connect(uri)
        roots = [artifacts_of(uri)]
        try:
            roots.append(client.get_experiment("0").artifact_location.rpartition("/")[0])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        if version.run_id and all(is_local(root or "") for root in roots):
            roots.append(str(client.get_run(version.run_id).info.artifact_uri))
    allowed = [_normal(root) for root in roots if root]
    if not any(_normal(location).startswith(f"{root}/") for root in allowed):
        raise ValueError(
            f"{version.uri} is refused: its files are at {masked(location)}, outside of the store's "
            f"artifacts ({masked(roots[-1] or '')}): register it in an experiment without a place of its own"
        )


def _normal(location: str) -> str:
    """A form of an address or a path in which those of the same place are equal."""
    if is_local(location):
        path = unquote(urlsplit(location).path) if location.startswith("file:") else location
        return str(Path(path).absolute()).rstrip("/")
    return location.rstrip("/")


def check_size(version: Version, source: str, file: str | None, into: Path, uri: str) -> None:
    """Refuse files that a download would not have room for, before it begins.

    Args:
        source: the folder with the files.
        file: the only file that is wanted, a small one; all files of the folder when ``None``.
        into: the folder to download to.

    Raises:
        ValueError: for files of other kinds than those of a model, or too many bytes.
    """
    from mlflow.artifacts import list_artifacts

    listed = [info for info in list_artifacts(source, tracking_uri=uri) or [] if not info.is_dir]
    if file is not None:
        sizes, room = [info.file_size or 0 for info in listed if info.path.endswith(f"/{file}")], LARGEST_JSON
    else:
        if odd := next(
            (info.path for info in listed if PurePosixPath(info.path).suffix not in HARMLESS), None
        ):
            raise ValueError(f"{version.uri} is refused: {odd} is not a file of a model")
        sizes, room = [info.file_size or 0 for info in listed], shutil.disk_usage(into).free
    if sum(sizes) > room:
        raise ValueError(
            f"{version.uri}: its files have {sum(sizes):,} bytes, and there is room for {room:,}"
        )
