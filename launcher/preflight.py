"""Mistakes that can be seen at once, told before anything is imported that takes a second.

The work itself checks the same again, by the same functions, and much more.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def at_model(model: str, uri: str | None = None, adapter: str | None = None) -> None:
    """What ``models:/…`` or a folder names, of a checkpoint and of an adapter.

    Raises:
        ValueError, FileNotFoundError: for a malformed name, a store or a folder that is not there.
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


def at_shards(shards: str) -> None:
    """What a run reads.

    Raises:
        ValueError, FileNotFoundError: for a folder here that does not hold any.
    """
    from data.manifest import load_manifest
    from data.remote import is_remote

    if not is_remote(shards):
        load_manifest(Path(shards))


def at_sources(sources: Iterable[object]) -> None:
    """What a build reads.

    Raises:
        ValueError, FileNotFoundError: for a file or folder here that is not there.
    """
    from data.building.sources import as_source
    from data.corpus import list_files

    for given in sources:
        source = as_source(given)  # type: ignore[arg-type]
        if not source.is_hugging_face and not source.is_remote and not Path(source.path).is_dir():
            list_files(Path(source.path))


def at_run(folder: Path) -> None:
    """What a run has left.

    Raises:
        FileNotFoundError: when none was ever begun there.
    """
    from cluster.tracking import runs

    runs.run_uri(folder)
