"""Checks that refuse a user's mistake before anything is imported that takes a second.

The work itself repeats these checks, by the same functions, and makes many more.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.building.sources import TextSource


def at_model(model: str, uri: str | None = None, adapter: str | None = None) -> None:
    """Check ``models:/…`` or the folder of a checkpoint, and of an adapter.

    Raises:
        ValueError: For a malformed name or a missing MLflow store.
        FileNotFoundError: For a missing folder.
    """
    _at_version(model, "config.json", uri)
    if adapter is not None:
        _at_version(adapter, "adapter.json", uri)


def _at_version(model: str, file: str, uri: str | None) -> None:
    if model.startswith("models:/"):
        from cluster.names import parse_reference
        from cluster.tracking import store

        parse_reference(model)
        store.check_there(store.tracking_uri(uri))
    else:
        from odeformer.files.checks import CHECKPOINT_EXPECTED, check_is_there

        check_is_there(Path(model) / file, CHECKPOINT_EXPECTED)


def at_shards(*locations: str) -> None:
    """Check the shards that a run reads, unless they are remote.

    Raises:
        ValueError: For a damaged manifest.
        FileNotFoundError: For a folder without shards.
    """
    from data.manifest import load_manifest
    from data.remote import is_remote

    for location in locations:
        if not is_remote(location):
            load_manifest(Path(location))


def at_sources(sources: Iterable[TextSource | Path | str]) -> None:
    """Check the local files and folders that a build reads.

    Raises:
        ValueError: For a malformed source.
        FileNotFoundError: For a missing file or folder.
    """
    from data.building.sources import as_source
    from data.corpus import list_files

    for source in map(as_source, sources):
        if not source.is_hugging_face and not source.is_remote and not Path(source.path).is_dir():
            list_files(Path(source.path))


def at_run(folder: Path, uri: str | None) -> None:
    """Check that a run was started in a folder, and that its MLflow store may be contacted.

    Args:
        folder: The folder of the run.
        uri: The store that the user names, if any.

    Raises:
        FileNotFoundError: If none was.
        ValueError: If the folder names another store than the user and the environment.
    """
    from cluster.tracking import runs, store

    if uri is not None:
        store.tracking_uri(uri)
    runs.run_uri(folder)
