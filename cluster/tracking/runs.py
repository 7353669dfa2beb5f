"""One MLflow run for each training run or job: what its folder remembers of it, and how it is started."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.tags import RUN_KEY
from cluster.tracking.store import SQLITE, answering, connect, locked, patience, sqlite_file
from odeformer.files.atomic import new_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_FILE = "mlflow.json"
"""In a run's folder: what its MLflow run is called and made of, and its id once it has one."""
PARENT = "mlflow.parentRunId"
"""Tag of an MLflow run that is nested in another: MLflow's own."""
ROWS_AT_ONCE, PARAMETERS_AT_ONCE = 1000, 100
"""MLflow takes no more in one request."""


def start_run(
    uri: str,
    experiment: str,
    name: str,
    settings: Mapping[str, Any],
    folder: Path,
    tags: Mapping[str, str] | None = None,
    known: str | None = None,
) -> str:
    """The MLflow run of the training run in ``folder``: the one it has, or ``known``, else a new one; its id.

    The resolved settings are logged as an artifact, and flat as parameters. ``tags``: where the run comes
    from; started again with others, it has those.

    Raises:
        ConnectionError: when the store cannot be reached. What the run is made of has been written down in
            the folder, for :func:`open_run` to start it later.
    """
    record = _record(folder)
    if record.get("tracking_uri") != uri:
        record = {"tracking_uri": uri}
    if known is not None and "run_id" not in record:
        record["run_id"] = known
    record = {"key": uuid.uuid4().hex} | record
    made_of = {"experiment": experiment, "name": name, "settings": dict(settings), "tags": dict(tags or {})}
    write_json(folder / RUN_FILE, {**record, **made_of, "tagged": False})
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
    _begun(folder)
    # Two that found no run at once would make two.
    with locked(folder / RUN_FILE):
        return _open_run(folder)


def _open_run(folder: Path) -> str:
    from mlflow.entities import RunTag

    record = _begun(folder)
    uri = record["tracking_uri"]
    with answering(uri), patience():
        client = connect(uri, create=True)
        run_id, tags = str(record.get("run_id", "")), record.get("tags", {})
        if run_id and _exists(client, run_id):
            if record.get("tagged", True):
                return run_id
        else:
            run_id = _new_run(
                client, uri, record["experiment"], record["name"], record["settings"], record["key"]
            )
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)
    write_json(folder / RUN_FILE, {**record, "run_id": run_id, "tagged": True})
    return run_id


def known_run(folder: Path) -> str | None:
    """The id of the MLflow run of the run in ``folder``, if it has one yet."""
    return _record(folder).get("run_id")


def run_uri(folder: Path) -> str:
    """The store of the run in ``folder``, as it was told when it started."""
    return str(_begun(folder)["tracking_uri"])


def run_settings(folder: Path) -> dict[str, Any]:
    """The resolved settings of the run in ``folder``.

    Raises:
        FileNotFoundError: when no run was ever begun there.
    """
    return dict(_begun(folder)["settings"])


def run_tags(folder: Path) -> dict[str, str]:
    """The tags of the run in ``folder``: the code and the data that it was made by.

    Raises:
        FileNotFoundError: when no run was ever begun there.
    """
    return dict(_begun(folder).get("tags", {}))


def tag_run(folder: Path, tags: Mapping[str, str], status: str | None = None) -> None:
    """Set tags of the MLflow run of ``folder``, and its status where one is given.

    Raises:
        FileNotFoundError: when no run was ever begun there.
        ConnectionError: when the store cannot be reached.
    """
    from mlflow.entities import RunTag

    run_id, uri = open_run(folder), run_uri(folder)
    with answering(uri), patience():
        client = connect(uri)
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)
        if status in ("FINISHED", "FAILED", "KILLED"):
            client.set_terminated(run_id, status)
        elif status is not None:
            client.update_run(run_id, status=status)


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
    with new_file(file) as beside:
        beside.write_text(json.dumps(content, indent=2))


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


def parent_run(
    uri: str, experiment: str, name: str, settings: Mapping[str, Any], key: str, tags: Mapping[str, str]
) -> str:
    """The MLflow run of that key, running, begun if there is none; others name it as their :data:`PARENT`.

    Raises:
        ConnectionError: when the store cannot be reached.
    """
    with answering(uri), patience():
        client = connect(uri, create=True)
        run_id = _new_run(client, uri, experiment, name, settings, key)
        for tag, content in tags.items():
            client.set_tag(run_id, tag, content)
        client.update_run(run_id, status="RUNNING")
        return run_id


def end_run(
    uri: str, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str], status: str = "FINISHED"
) -> None:
    """Log what came of a run that has no folder, and end it; done again, the last counts.

    Raises:
        ConnectionError: when the store cannot be reached.
    """
    with answering(uri), patience():
        client = connect(uri)
        for metric, value in metrics.items():
            client.log_metric(run_id, metric, value)
        for tag, content in tags.items():
            client.set_tag(run_id, tag, content)
        client.set_terminated(run_id, status)


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
    return (sqlite_file(uri).parent / "artifacts").as_uri() if uri.startswith(SQLITE) else None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in settings.items():
        nested = isinstance(value, Mapping)
        flat += _flat(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", value)]
    return flat
