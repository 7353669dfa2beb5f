"""MLflow tracking: which store, one run per training run, metrics from rank 0 only."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    """
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if uri.startswith(SQLITE) and not _sqlite_file(uri).is_file():
        if not create:
            raise FileNotFoundError(
                f"{_sqlite_file(uri)}: no such MLflow store; pretrain a model first, "
                "or name the store with --tracking-uri or MLFLOW_TRACKING_URI"
            )
        _sqlite_file(uri).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def start_run(uri: str, experiment: str, name: str, settings: Mapping[str, Any], folder: Path) -> str:
    """The MLflow run of the training run in ``folder``: the one it has, else a new one; its id.

    The resolved settings are logged as an artifact, and flat as parameters.
    """
    client = connect(uri, create=True)
    remembered = folder / "mlflow.json"
    if remembered.is_file():
        known = json.loads(remembered.read_text())
        if known["tracking_uri"] == uri:
            client.update_run(known["run_id"], status="RUNNING")
            return str(known["run_id"])
    found = client.get_experiment_by_name(experiment)
    experiment_id = (
        found.experiment_id if found else client.create_experiment(experiment, _artifact_root(uri))
    )
    run_id = client.create_run(experiment_id, run_name=name).info.run_id
    client.log_dict(run_id, dict(settings), "settings.json")
    for key, value in _flat(settings):
        client.log_param(run_id, key, value)
    folder.mkdir(parents=True, exist_ok=True)
    remembered.write_text(json.dumps({"tracking_uri": uri, "run_id": run_id}))
    return run_id


@contextmanager
def ended(uri: str, run_id: str) -> Iterator[None]:
    """End the MLflow run as ``FAILED`` when the block raises, as ``KILLED`` when it is interrupted."""
    try:
        yield
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        connect(uri).set_terminated(run_id, status)
        raise


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
        for operation in self._pending:
            operation.wait()
        if kind is None:
            self._client.set_terminated(self._run_id, "FINISHED")


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
