"""MLflow tracking: which store, one run per training run, metrics from rank 0 only."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.events import EventLog

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"

# No pickle is ever loaded from the store, by us or by MLflow on our behalf.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"


def tracking_uri(given: str | None = None) -> str:
    """The store to use: ``given``, else what MLflow was told, else ``runs/mlflow.db`` here."""
    if given is None:
        import mlflow

        given = str(mlflow.get_tracking_uri()) if mlflow.is_tracking_uri_set() else f"{SQLITE}runs/mlflow.db"
    # Workers run in folders of their own: a relative path would be another file in each.
    return f"{SQLITE}{_sqlite_file(given).absolute()}" if given.startswith(SQLITE) else given


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
            _few_retries(),
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
def _few_retries() -> Iterator[None]:
    """MLflow tries an address where nobody answers for minutes; whether somebody does takes seconds."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ.get(name)
    os.environ.setdefault(name, "1")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def start_run(uri: str, experiment: str, name: str, settings: Mapping[str, Any], folder: Path) -> str:
    """The MLflow run of the training run in ``folder``: the one it has, else a new one; its id.

    The resolved settings are logged as an artifact, and flat as parameters.
    """
    client = connect(uri, create=True)
    remembered = folder / "mlflow.json"
    if remembered.is_file():
        known = json.loads(remembered.read_text())
        if known["tracking_uri"] == uri and _exists(client, known["run_id"]):
            client.update_run(known["run_id"], status="RUNNING")
            return str(known["run_id"])
    run_id = _new_run(client, uri, experiment, name, settings)
    folder.mkdir(parents=True, exist_ok=True)
    remembered.write_text(json.dumps({"tracking_uri": uri, "run_id": run_id}))
    return run_id


def finished_run(
    uri: str, experiment: str, name: str, settings: Mapping[str, Any], metrics: Mapping[str, float]
) -> str:
    """An MLflow run of something that is already done; its id."""
    client = connect(uri, create=True)
    run_id = _new_run(client, uri, experiment, name, settings)
    for key, value in metrics.items():
        client.log_metric(run_id, key, value)
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _new_run(client: MlflowClient, uri: str, experiment: str, name: str, settings: Mapping[str, Any]) -> str:
    experiment_id = _experiment(client, experiment, uri)
    run_id = str(client.create_run(experiment_id, run_name=name).info.run_id)
    client.log_dict(run_id, dict(settings), "settings.json")
    for key, value in _flat(settings):
        client.log_param(run_id, key, value)
    return run_id


@contextmanager
def ended(uri: str, run_id: str) -> Iterator[None]:
    """End the MLflow run as ``FAILED`` when the block raises, as ``KILLED`` when it is interrupted."""
    try:
        yield
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        with suppress(Exception):  # a store that is gone must not hide what the run died of
            connect(uri).set_terminated(run_id, status)
        raise


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


class Tracker:
    """Rank 0's reports: each goes to the run's event log at once, and to MLflow without waiting for it.

    At the end of its ``with`` block MLflow has everything, and the run is finished unless the block raised:
    then whoever started the workers knows why, and ends the run.
    """

    def __init__(self, folder: Path, uri: str, run_id: str) -> None:
        self._log = EventLog(folder)
        self._client = connect(uri)
        self._run_id = run_id
        self._pending: list[Any] = []

    def __call__(self, event: str, step: int, values: dict[str, float]) -> None:
        """Report what happened at an optimizer step; ``values`` become metrics of the same names."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        self._log(event, step, values)
        if values:
            now = get_current_time_millis()
            metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
            self._pending.append(self._client.log_batch(self._run_id, metrics, synchronous=False))

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            for operation in self._pending:
                operation.wait()
            if kind is None:
                self._client.set_terminated(self._run_id, "FINISHED")
        except Exception as failure:  # noqa: BLE001 - what was trained is worth more than its curves
            self._log(f"MLflow lacks some metrics: {failure}", 0, {})


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
