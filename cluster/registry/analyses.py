"""What ``odeformer analyze`` found of a version, kept beside it: as artifacts of the run that made it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cluster.registry.versions import Version, resolve
from cluster.tracking.store import answering, connect, patience, tracking_uri

PLACE = "analyses"


class Logged(NamedTuple):
    """One analysis in the store."""

    run_id: str
    path: str
    """Of its folder, among the run's artifacts."""
    made: str
    """``YYYYmmddTHHMMSS``: sorts by time."""
    text: str
    """The first 12 digits of the text's SHA-256."""


def log(folder: Path, version_uri: str, made: str, text_sha256: str, uri: str | None = None) -> Logged:
    """Send a folder that ``odeformer analyze`` wrote to the version that it is of.

    Args:
        version_uri: ``models:/<name>/<version>``.
        made: ``YYYY-mm-dd HH:MM:SS`` and maybe more, as the analysis says.
        text_sha256: of the text.

    Raises:
        ValueError: when there is no such version.
        ConnectionError: when the store does not take it.
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
    """All analyses of a version, from the oldest.

    Raises:
        ValueError: when there is no such version.
        ConnectionError: when the store does not answer.
    """
    uri = tracking_uri(uri)
    version = resolve(version_uri, uri)
    with answering(uri), patience(seconds=60):
        listed = connect(uri).list_artifacts(version.run_id, _place(version))
    names = sorted(Path(artifact.path).name for artifact in listed if artifact.is_dir)
    return [
        Logged(version.run_id, f"{_place(version)}/{name}", *name.split("-"))
        for name in names
        if name.count("-") == 1
    ]


def fetch(analysis: Logged, file: str, uri: str | None = None) -> Path:
    """A file of an analysis, on this machine.

    Raises:
        ConnectionError: when the store does not answer, or has no such file any more.
    """
    uri = tracking_uri(uri)
    with answering(uri), patience(seconds=60):
        return Path(connect(uri).download_artifacts(analysis.run_id, f"{analysis.path}/{file}"))


def _place(version: Version) -> str:
    """A run that was continued has made several versions."""
    return f"{PLACE}/{version.name}-{version.version}"
