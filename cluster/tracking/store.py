"""The MLflow store: which one, whether it answers, and how long that is waited for."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from odeformer.files import lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"

# No pickle is ever loaded from the store, by us or by MLflow on our behalf.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def tracking_uri(given: str | None = None) -> str:
    """The store to use: ``given``, else what MLflow was told, else ``runs/mlflow.db`` here."""
    if given is None:
        # A program may have told MLflow itself: only one that has imported it, which takes a second.
        mlflow = sys.modules.get("mlflow")
        told = str(mlflow.get_tracking_uri()) if mlflow and mlflow.is_tracking_uri_set() else None
        given = told or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}runs/mlflow.db"
    # Workers run in folders of their own: a relative path would be another file in each.
    return f"{SQLITE}{sqlite_file(given).absolute()}" if given.startswith(SQLITE) else given


def import_client() -> None:
    """Import what sending needs, now: in a thread it would take turns with whatever runs then."""
    import mlflow.entities  # noqa: F401


def check_there(uri: str) -> None:
    """Refuse a SQLite file that does not exist; nothing is asked of a server.

    Raises:
        FileNotFoundError: naming the file.
    """
    if uri.startswith(SQLITE) and not sqlite_file(uri).is_file():
        raise FileNotFoundError(
            f"{sqlite_file(uri)}: no such MLflow store; pretrain a model first, "
            "or name the store with --tracking-uri or MLFLOW_TRACKING_URI"
        )


def connect(uri: str, *, create: bool = False) -> MlflowClient:
    """A client of the store.

    Args:
        uri: as :func:`tracking_uri` gave it.
        create: make a SQLite file that does not exist, instead of refusing it.

    Raises:
        FileNotFoundError: when the store is a SQLite file that does not exist.
        ConnectionError: when it does not answer, or is no store.
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
        # Two that make a new store at once would run the same migrations into each other.
        with (
            locked(sqlite_file(uri)) if create and uri.startswith(SQLITE) else nullcontext(),
            patience(retries=1),
        ):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_registered_models(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:
        raise _away(uri, error) from None
    return client


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """While the block runs, no other process is in one about the same file."""
    with lock.locked(store.with_name(f".{store.name}.lock")):
        yield


@contextmanager
def patience(*, seconds: int = 10, retries: int = 0) -> Iterator[None]:
    """How long MLflow waits for an answer, and how often it asks again, unless the environment says it.

    By itself it would try for many minutes. Retries of its own are a trap besides: when an answer is lost
    it creates a second time what it has created.
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
def answering(uri: str) -> Iterator[None]:
    """Turn whatever MLflow raises when its store does not do as asked into a ``ConnectionError``."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, *_storage_errors()) as error:
        raise _away(uri, error) from None


class RefusedError(ConnectionError):
    """The store answers, and will not do it for this user: asking again does not help."""


REFUSALS = ("Permission denied", "You are not authenticated")
"""What MLflow's basic-auth says."""


def _away(uri: str, error: Exception) -> ConnectionError:
    reason = str(error).splitlines()[0][:200]
    for refusal in REFUSALS:
        if refusal in str(error):
            who = os.environ.get("MLFLOW_TRACKING_USERNAME")
            whom = f"{who!r}, as MLFLOW_TRACKING_USERNAME says" if who else "MLFLOW_TRACKING_USERNAME not set"
            return RefusedError(f"the MLflow store {uri} refuses it: {refusal} ({whom})")
    return ConnectionError(f"the MLflow store {uri} cannot be used: {reason}")


def _storage_errors() -> tuple[type[Exception], ...]:
    """What is raised where artifacts go straight to S3, without the server between."""
    if "boto3" not in sys.modules:  # MLflow imports it when it is needed
        return ()
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (Boto3Error, BotoCoreError, ClientError)


def sqlite_file(uri: str) -> Path:
    """The file of a store that is one."""
    return Path(uri.removeprefix(SQLITE))
