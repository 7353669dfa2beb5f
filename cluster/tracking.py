"""MLflow: which store, and one run in it for each training run, started when the store can be reached."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from odeformer.folder import replace_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
RUN_FILE = "mlflow.json"
"""In a run's folder: what its MLflow run is called and made of, and its id once it has one."""
RUN_KEY = "odeformer.run"
"""Tag of an MLflow run: whose it is. It finds a run whose id got lost on the way back."""
ROWS_AT_ONCE, PARAMETERS_AT_ONCE = 1000, 100
"""MLflow takes no more in one request."""

# No pickle is ever loaded from the store, by us or by MLflow on our behalf.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"


def tracking_uri(given: str | None = None) -> str:
    """The store to use: ``given``, else what MLflow was told, else ``runs/mlflow.db`` here."""
    if given is None:
        import mlflow

        given = str(mlflow.get_tracking_uri()) if mlflow.is_tracking_uri_set() else f"{SQLITE}runs/mlflow.db"
    # Workers run in folders of their own: a relative path would be another file in each.
    return f"{SQLITE}{_sqlite_file(given).absolute()}" if given.startswith(SQLITE) else given


def import_client() -> None:
    """Import what sending needs, now: in a thread it would take turns with whatever runs then."""
    import mlflow.entities  # noqa: F401


def connect(uri: str, *, create: bool = False) -> MlflowClient:
    """A client of the store.

    Args:
        uri: as :func:`tracking_uri` gave it.
        create: make a SQLite file that does not exist, instead of refusing it.

    Raises:
        FileNotFoundError: when the store is a SQLite file that does not exist.
        ConnectionError: when it does not answer, or is no store.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if uri.startswith(SQLITE) and not _sqlite_file(uri).is_file():
        if not create:
            raise FileNotFoundError(
                f"{_sqlite_file(uri)}: no such MLflow store; pretrain a model first, "
                "or name the store with --tracking-uri or MLFLOW_TRACKING_URI"
            )
        _sqlite_file(uri).parent.mkdir(parents=True, exist_ok=True)
    try:
        # Two that make a new store at once would run the same migrations into each other.
        with (
            _locked(_sqlite_file(uri)) if create and uri.startswith(SQLITE) else nullcontext(),
            patience(retries=1),
        ):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_registered_models(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConnectionError(f"the MLflow store {uri} cannot be used: {reason}") from None
    return client


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    with store.with_name(f".{store.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
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
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConnectionError(f"the MLflow store {uri} cannot be used: {reason}") from None


def start_run(uri: str, experiment: str, name: str, settings: Mapping[str, Any], folder: Path) -> str:
    """The MLflow run of the training run in ``folder``: the one it has, else a new one; its id.

    The resolved settings are logged as an artifact, and flat as parameters.

    Raises:
        ConnectionError: when the store cannot be reached. What the run is made of has been written down in
            the folder, for :func:`open_run` to start it later.
    """
    record = _record(folder)
    if record.get("tracking_uri") != uri:
        record = {"tracking_uri": uri}
    record = {"key": uuid.uuid4().hex} | record
    write_json(
        folder / RUN_FILE, {**record, "experiment": experiment, "name": name, "settings": dict(settings)}
    )
    run_id = open_run(folder)
    with answering(uri), patience():
        connect(uri).update_run(run_id, status="RUNNING")
    return run_id


def open_run(folder: Path) -> str:
    """The id of the MLflow run that ``folder`` remembers, which is started if it is not in the store.

    Raises:
        FileNotFoundError: when no run was ever begun there.
        ConnectionError: when the store cannot be reached.
    """
    record = _begun(folder)
    uri = record["tracking_uri"]
    with answering(uri), patience():
        client = connect(uri, create=True)
        if "run_id" in record and _exists(client, record["run_id"]):
            return str(record["run_id"])
        run_id = _new_run(
            client, uri, record["experiment"], record["name"], record["settings"], record["key"]
        )
    write_json(folder / RUN_FILE, {**record, "run_id": run_id})
    return run_id


def run_uri(folder: Path) -> str:
    """The store of the run in ``folder``, as it was told when it started."""
    return str(_begun(folder)["tracking_uri"])


def run_settings(folder: Path) -> dict[str, Any]:
    """The resolved settings of the run in ``folder``.

    Raises:
        FileNotFoundError: when no run was ever begun there.
    """
    return dict(_begun(folder)["settings"])


class Row(NamedTuple):
    """A value of a metric. The store holds equal rows only once."""

    key: str
    value: float
    milliseconds: int
    step: int


def send_rows(client: MlflowClient, run_id: str, rows: Sequence[Row]) -> None:
    """Have the store take rows; sent again, they change nothing."""
    from mlflow.entities import Metric

    for start in range(0, len(rows), ROWS_AT_ONCE):
        metrics = [Metric(*row) for row in rows[start : start + ROWS_AT_ONCE]]
        client.log_batch(run_id, metrics, synchronous=True)


def _begun(folder: Path) -> dict[str, Any]:
    record = _record(folder)
    if not record:
        raise FileNotFoundError(f"{folder / RUN_FILE}: no such file; no run was begun in this folder")
    return record


def _record(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / RUN_FILE).read_text()))
    except FileNotFoundError:
        return {}


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a small file durably; readers see the old one or the new one."""

    def write(beside: Path) -> None:
        beside.write_text(json.dumps(content, indent=2))

    replace_file(file, write)


def finished_run(
    uri: str, experiment: str, name: str, settings: Mapping[str, Any], metrics: Mapping[str, float]
) -> str:
    """An MLflow run of something that is already done; its id."""
    client = connect(uri, create=True)
    run_id = _new_run(client, uri, experiment, name, settings, uuid.uuid4().hex)
    for key, value in metrics.items():
        client.log_metric(run_id, key, value)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _new_run(
    client: MlflowClient, uri: str, experiment: str, name: str, settings: Mapping[str, Any], key: str
) -> str:
    from mlflow.entities import Param

    experiment_id = _experiment(client, experiment, uri)
    begun = client.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{key}'")
    run = begun[0] if begun else client.create_run(experiment_id, run_name=name, tags={RUN_KEY: key})
    run_id = str(run.info.run_id)
    client.log_dict(run_id, dict(settings), "settings.json")
    parameters = [Param(parameter, str(value)) for parameter, value in _flat(settings)]
    for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
        client.log_batch(run_id, params=parameters[start : start + PARAMETERS_AT_ONCE], synchronous=True)
    return run_id


def _exists(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, _artifact_root(uri)))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.get_experiment_by_name(name)
    assert found is not None
    if found.lifecycle_stage != "active":
        raise ValueError(
            f"the MLflow experiment {name!r} was deleted: restore it, or choose another tracking.experiment"
        )
    return str(found.experiment_id)


def _artifact_root(uri: str) -> str | None:
    # Without a server MLflow would put artifacts under the current folder of whoever runs.
    return (_sqlite_file(uri).parent / "artifacts").as_uri() if uri.startswith(SQLITE) else None


def _sqlite_file(uri: str) -> Path:
    return Path(uri.removeprefix(SQLITE))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in settings.items():
        nested = isinstance(value, Mapping)
        flat += _flat(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", value)]
    return flat
