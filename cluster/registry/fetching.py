"""Download and verification of a version's files, and loading of its model."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from cluster.names import is_registered
from cluster.registry import mlflow_model
from cluster.registry.about import DEPTHS_FILE, LINEAGE_FILE
from cluster.registry.depth_table import DepthTable
from cluster.registry.downloads import place, shared_copy
from cluster.registry.places import check_place, check_size, is_local
from cluster.registry.versions import Version, resolve
from cluster.tags import DIGEST, FILES, LINEAGE_DIGEST
from cluster.tracking.store import storage_errors, tracking_uri
from odeformer.files.digest import file_digest, folder_digest
from odeformer.files.errors import reason
from odeformer.files.shown import masked
from odeformer.untrusted import check_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from odeformer.model import Odeformer


def fetch(model: str, uri: str | None = None) -> Path:
    """A local folder with the verified files of ``models:/<name>@<alias>`` or ``models:/<name>/<version>``.

    No file is opened before all are known to be plain files of harmless kinds and to match the digest that
    was registered.

    Raises:
        ValueError: when the model is unknown, or its files are not those that were registered.
    """
    uri = tracking_uri(uri)
    version = resolve(model, uri)
    inner = version.tags.get(FILES)
    if inner not in (None, mlflow_model.FILES):
        raise ValueError(
            f"{version.uri} is refused: its files must be in {mlflow_model.FILES}, not in {inner!r}"
        )
    inner = f"/{inner}" if inner else ""

    if is_local(version.location):
        folder = _download(version, inner, uri)
        _check(version, folder)
        return folder
    try:
        return shared_copy(
            version.tags.get(DIGEST, ""),
            lambda folder: _download_into(folder, version, inner, uri),
            lambda folder: _check(version, folder),
        )
    except ConnectionError:
        raise
    except OSError as error:
        raise ValueError(
            f"{version.uri}: its files cannot be stored in {place()} ({error}): set ODEFORMER_CACHE"
        ) from None


def _check(version: Version, folder: Path) -> None:
    """Refuse files that are not harmless, or differ from those that were registered."""
    try:
        check_folder(folder)
    except ValueError as error:
        raise ValueError(f"{version.uri} is refused: {error}") from None
    digest = folder_digest(folder)
    if digest != version.tags.get(DIGEST):
        raise ValueError(
            f"{version.uri}: the files in {folder} have digest {digest}, "
            f"not the registered {version.tags.get(DIGEST)}: they were changed or damaged since"
        )


def read_json(version: Version, file: str, uri: str | None = None) -> dict[str, Any] | None:
    """A JSON file stored with a version's weights, such as ``depths.json``; ``None`` if there is none.

    Raises:
        ValueError: when it is not the ``lineage.json`` that was registered.
    """
    if FILES not in version.tags:  # registered before such files were written
        return None
    try:
        path = _download(version, f"/{file}", tracking_uri(uri))
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    expected = version.tags.get(LINEAGE_DIGEST) if file == LINEAGE_FILE else None
    if expected not in (None, file_digest(path)):
        raise ValueError(f"{version.uri}: its {file} was changed since it was registered")
    return content if isinstance(content, dict) else None


def read_settings(version: Version, uri: str | None = None) -> dict[str, Any]:
    """The settings of the run that made a version; empty if they are not recorded.

    Raises:
        ValueError: when the record was changed since the version was registered.
    """
    settings = (read_json(version, LINEAGE_FILE, uri) or {}).get("settings")
    return settings if isinstance(settings, dict) else {}


def read_depths(version: Version, uri: str | None = None) -> DepthTable | None:
    """The table of scores and costs by depth of a version; ``None`` if there is none, or it is malformed."""
    content = read_json(version, DEPTHS_FILE, uri)
    try:
        return None if content is None else TypeAdapter(DepthTable).validate_python(content)
    except ValidationError:
        return None


def _download_into(folder: Path, version: Version, inner: str, uri: str) -> None:
    downloaded = _download(version, inner, uri, folder)
    if downloaded != folder:  # MLflow creates a subfolder in the destination
        for file in downloaded.iterdir():
            file.rename(folder / file.name)
        downloaded.rmdir()


def _download(version: Version, inner: str, uri: str, into: Path | None = None) -> Path:
    """Download a folder, or without ``into`` a single file, of a version; local ones stay where they are."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    check_place(version, uri)
    source = version.location + inner
    try:
        if not is_local(source):
            folder, _, file = source.rpartition("/")
            if into is None:
                check_size(version, folder, file, Path(tempfile.gettempdir()), uri)
            else:
                check_size(version, source, None, into, uri)
        return Path(download_artifacts(source, dst_path=into and str(into), tracking_uri=uri))
    except (MlflowException, OSError) as error:
        raise ValueError(f"{version.uri}: its files are not at {masked(source)} ({reason(error)})") from None
    except storage_errors() as error:
        raise ConnectionError(
            f"{version.uri}: its files at {masked(source)} cannot be read ({reason(error)})"
        ) from None


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run, and its origin."""

    model: Odeformer
    tokenizer: Tokenizer
    folder: Path
    """Folder of the checkpoint's files, without an adapter's."""
    versions: tuple[Version, ...]
    """The adapter's version, if there is one, then the checkpoint's. Empty for plain folders."""
    tokenizer_config: dict[str, Any]
    """Special tokens and chat template, which may be the adapter's; empty for a tokenizer without either."""


def load(model: str, uri: str | None = None, adapter: str | None = None) -> Loaded:
    """Load a model with its tokenizer, and an adapter with the base it belongs to.

    Args:
        model: ``models:/<name>@<alias>``, ``models:/<name>/<version>``, or a checkpoint folder. A registered
            adapter loads its base with the adapter attached.
        adapter: an adapter to attach, as ``models:/…`` or a folder.

    Raises:
        ValueError, FileNotFoundError: when it is unknown, damaged, or an adapter of another base.
    """
    import odeformer
    from data.tokenizer import load_tokenizer
    from odeformer.checkpoint import load_tokenizer_config

    known: list[Version] = []

    def files(name: str) -> Path:
        if not is_registered(name):
            return Path(name)
        known.append(resolve(name, uri))
        return fetch(known[-1].uri, uri)

    if adapter is None and is_registered(model):
        version = resolve(model, uri)
        if version.kind == "adapter" and version.base is not None:
            model, adapter = version.base, version.uri
    adapter_folder = None if adapter is None else files(adapter)
    folder = files(model)
    model_of_both = odeformer.load(folder, adapter_folder)
    config = load_tokenizer_config(folder, adapter_folder)
    return Loaded(model_of_both, load_tokenizer(folder), folder, tuple(known), config)
