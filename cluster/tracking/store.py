"""The MLflow store: its URI, connections with time limits, and its errors."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from odeformer.files import lock
from odeformer.files.errors import reason
from odeformer.files.shown import MASK, masked
from odeformer.files.user import complete_environment, home

if TYPE_CHECKING:
    from mlflow import MlflowClient

_importing = threading.Lock()

SQLITE = "sqlite:///"
DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Schemes of the database servers that MLflow connects to directly, and their ports."""
CONNECT_SECONDS = 10.0

complete_environment()
# Pickles from the store are never loaded, not by MLflow either.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# The address that it would print holds the password.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"


_named: dict[str, str] = {}
"""The addresses that this process was given, by their masked forms: only those are sent credentials."""
CREDENTIALS = tuple(
    f"MLFLOW_TRACKING_{name}"
    for name in ("USERNAME", "PASSWORD", "TOKEN", "AUTH", "AWS_SIGV4", "CLIENT_CERT_PATH")
)
"""Environment variables with credentials that MLflow sends to any server."""


def tracking_uri(given: str | None = None) -> str:
    """URI of the store: ``given``, else the one set in MLflow or its environment, else ``runs/mlflow.db``.

    A masked address, ``https://***@host``, is completed from the environment.

    Raises:
        ValueError: when the environment has no such address.
    """
    if given is not None and MASK in given:
        given = store_named(given, "the address")
    if given is None:
        # A program may have set it in MLflow, but only if it has imported it, which takes a second.
        mlflow = sys.modules.get("mlflow")
        if mlflow is not None and mlflow.is_tracking_uri_set():
            given = str(mlflow.get_tracking_uri())
        given = given or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}runs/mlflow.db"
    if given.startswith(SQLITE):
        # Absolute, as workers run in other folders.
        given = sqlite_uri(sqlite_file(given).absolute(), given)
    _named[masked(given)] = given
    return given


def registry_uri(uri: str) -> str:
    """The address of the model registry: ``MLFLOW_REGISTRY_URI``, else that of the store."""
    return os.environ.get("MLFLOW_REGISTRY_URI") or uri


def store_named(recorded: str, where: str) -> str:
    """The store that a file names, with the password that only this process's settings or environment have.

    Args:
        recorded: the address in the file; whoever wrote the file may have chosen it.
        where: what names it, for the message.

    Raises:
        ValueError: for a server that neither this process's arguments nor its environment name, while the
            environment has credentials, which it would be sent.
    """
    recorded = masked(recorded)
    if recorded not in _named and os.environ.get("MLFLOW_TRACKING_URI"):
        tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    if recorded in _named or recorded.startswith(SQLITE):
        return _named.get(recorded, recorded)
    if MASK in recorded:
        raise ValueError(f"{where} {recorded} lacks its password: give it whole, in MLFLOW_TRACKING_URI")
    if any(name in os.environ for name in CREDENTIALS) or _credentials_file().is_file():
        raise ValueError(
            f"{where} is the MLflow store {recorded}, which MLFLOW_TRACKING_URI does not name: if your "
            f"credentials may be sent there, add --tracking-uri {recorded}"
        )
    return recorded


def _credentials_file() -> Path:
    return home() / ".mlflow" / "credentials"


def import_client() -> None:
    """Import what sending needs now: in a thread, the import would slow down training."""
    import mlflow.entities  # noqa: F401


def import_all() -> None:
    """Import the client and the stores. Threads that use MLflow at the same time call this before they do.

    MLflow's modules import each other in circles: two threads that import them at once get half of them.
    """
    with _importing:
        import mlflow.entities
        import mlflow.store.model_registry.sqlalchemy_store
        import mlflow.store.tracking.sqlalchemy_store
        import mlflow.tracking  # noqa: F401


def check_there(uri: str) -> None:
    """Check that a SQLite store exists. Servers are not contacted.

    Raises:
        FileNotFoundError: if it does not, with the name of the file.
    """
    if uri.startswith(SQLITE) and not sqlite_file(uri).is_file():
        raise FileNotFoundError(
            f"{sqlite_file(uri)}: no such MLflow store; pretrain a model first, "
            "or name the store with --tracking-uri or MLFLOW_TRACKING_URI"
        )


def connect(uri: str, *, create: bool = False) -> MlflowClient:
    """Connect to the store.

    Args:
        uri: URI as returned by :func:`tracking_uri`.
        create: create a SQLite store that does not exist.

    Raises:
        FileNotFoundError: when a SQLite store does not exist and ``create`` is false.
        ConnectionError: when the store does not answer, or is not an MLflow store.
    """
    if not create:
        check_there(uri)
    elif uri.startswith(SQLITE):
        sqlite_file(uri).parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        _check_answers(uri)
        # Two processes that create a store at the same time would interfere with each other's migrations.
        with (
            locked(sqlite_file(uri)) if create and uri.startswith(SQLITE) else nullcontext(),
            patience(retries=1),
        ):
            client = MlflowClient(tracking_uri=uri, registry_uri=registry_uri(uri))
            client.search_registered_models(max_results=1)
            _remove_misread(uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise _away(uri, error) from None
    return client


def _check_answers(uri: str) -> None:
    """Connect to a database server once: MLflow tries for minutes, which no setting shortens.

    Raises:
        OSError, SQLAlchemyError: when it does not answer.
    """
    from sqlalchemy import create_engine, make_url

    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in DATABASES:
        return
    url = make_url(uri)
    if url.host:
        socket.create_connection((url.host, url.port or DATABASES[scheme]), CONNECT_SECONDS).close()
    engine = create_engine(url)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file while the block runs."""
    with lock.locked(store.with_name(f".{store.name}.lock")):
        yield


@contextmanager
def patience(*, seconds: int = 10, retries: int = 0) -> Iterator[None]:
    """Set MLflow's timeout and retries, unless the environment sets them.

    Its defaults amount to many minutes. Its retries are also dangerous: when a response is lost, the same
    object is created twice.
    """
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries)}
    ours = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def session(uri: str, *, create: bool = False) -> Iterator[MlflowClient]:
    """A client of the store for the block, with a timeout and all errors turned into ``ConnectionError``."""
    with answering(uri), patience():
        yield connect(uri, create=create)


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn all errors that MLflow raises about its store into ``ConnectionError``."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, *storage_errors()) as error:
        raise _away(uri, error) from None


class RefusedError(ConnectionError):
    """The store denies access to this user; retrying does not help."""


REFUSALS = ("Permission denied", "You are not authenticated")
"""Error messages of MLflow's basic authentication."""


def _away(uri: str, error: Exception) -> ConnectionError:
    cause, uri = reason(error)[:200], masked(uri)
    for refusal in REFUSALS:
        if refusal in str(error):
            who = os.environ.get("MLFLOW_TRACKING_USERNAME")
            whom = f"{who!r}, as MLFLOW_TRACKING_USERNAME says" if who else "MLFLOW_TRACKING_USERNAME not set"
            return RefusedError(f"the MLflow store {uri} refuses it: {refusal} ({whom})")
    return ConnectionError(f"the MLflow store {uri} cannot be used: {cause}")


STORAGE_ERRORS = {
    "boto3.exceptions": ("Boto3Error",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "google.api_core.exceptions": ("GoogleAPIError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
}
"""Exceptions of the object stores whose artifacts the MLflow server does not pass on."""


def storage_errors() -> tuple[type[Exception], ...]:
    """The exceptions of the object stores whose libraries MLflow has imported."""
    return tuple(
        getattr(sys.modules[module], name)
        for module, names in STORAGE_ERRORS.items()
        if module in sys.modules
        for name in names
    )


def sqlite_file(uri: str) -> Path:
    """The file of a SQLite store.

    In an address ``%`` quotes and ``?`` begins options; but a path with such a folder may have been put into
    one as it is.
    """
    path = uri.removeprefix(SQLITE)
    if "?" in str(Path(path).parent) and Path(path).parent.is_dir():
        return Path(path)
    plain = Path(path.partition("?")[0])
    unquoted = Path(unquote(str(plain)))
    return plain if plain.parent.is_dir() and not unquoted.parent.is_dir() else unquoted


def sqlite_uri(file: Path, like: str = "") -> str:
    """The address of a SQLite store in a file, with the options of another address of the same file."""
    path = like.removeprefix(SQLITE)
    options = path[len(path.partition("?")[0]) :] if "/" not in path.partition("?")[2] else ""
    return f"{SQLITE}{str(file).replace('%', '%25').replace('?', '%3F')}{options}"


def artifacts_of(uri: str) -> str | None:
    """The address of a SQLite store's artifacts; ``None`` for a server, which decides it itself."""
    # Without a server, MLflow would store artifacts under the current folder.
    return (sqlite_file(uri).parent / "artifacts").as_uri() if uri.startswith(SQLITE) else None


def _remove_misread(uri: str) -> None:
    """Remove the empty folder that MLflow makes of a quoted path before SQLAlchemy reads it rightly."""
    misread = Path(uri.removeprefix(SQLITE).partition("?")[0]).parent
    if uri.startswith(SQLITE) and misread != sqlite_file(uri).parent:
        with suppress(OSError):
            os.removedirs(misread)
