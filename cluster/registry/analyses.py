"""Analyses of a version by ``odeformer analyze``, stored as artifacts of the run that made the version."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cluster.registry.versions import Version, resolve
from cluster.tracking.store import answering, connect, patience, tracking_uri

PLACE = "analyses"


class Logged(NamedTuple):
    """An analysis in the store."""

    run_id: str
    path: str
    """Path of its folder among the run's artifacts."""
    made: str
    """Time as ``YYYYmmddTHHMMSS``, which sorts chronologically."""
    text: str
    """First 12 digits of the text's SHA-256."""


def log(folder: Path, version_uri: str, made: str, text_sha256: str, uri: str | None = None) -> Logged:
    """Upload a folder that ``odeformer analyze`` wrote, to the version it analyzed.

    Args:
        version_uri: ``models:/<name>/<version>``.
        made: the analysis's time, starting with ``YYYY-mm-dd HH:MM:SS``.
        text_sha256: SHA-256 of the analyzed text.

    Raises:
        ValueError: when there is no such version.
        ConnectionError: when the store does not accept it.
    """
    uri = tracking_uri(uri)
    version = resolve(version_uri, uri)
    when = made[:19].replace("-", "").replace(":", "").replace(" ", "T")
    text = text_sha256[:12]
    logged = Logged(version.run_id, f"{_place(version)}/{when}-{text}", when, text)
    with answering(uri), patience(seconds=60):
        connect(uri).log_artifacts(logged.run_id, str(folder), logged.path)
    return logged


def logged(version_uri: str, uri: str | None = None) -> list[Logged]:
    """All analyses of a version, oldest first.

    Raises:
        ValueError: when there is no such version.
        ConnectionError: when the store does not answer.
    """
    uri = tracking_uri(uri)
    version = resolve(version_uri, uri)
    place = _place(version)
    with answering(uri), patience(seconds=60):
        artifacts = connect(uri).list_artifacts(version.run_id, place)
    names = sorted(Path(artifact.path).name for artifact in artifacts if artifact.is_dir)
    return [
        Logged(version.run_id, f"{place}/{name}", *name.split("-")) for name in names if name.count("-") == 1
    ]


def fetch(analysis: Logged, file: str, uri: str | None = None) -> Path:
    """Download a file of an analysis.

    Raises:
        ConnectionError: when the store does not answer, or no longer has the file.
    """
    uri = tracking_uri(uri)
    with answering(uri), patience(seconds=60):
        return Path(connect(uri).download_artifacts(analysis.run_id, f"{analysis.path}/{file}"))


def _place(version: Version) -> str:
    # A run that was continued has made several versions.
    return f"{PLACE}/{version.name}-{version.version}"
