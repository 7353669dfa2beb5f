"""The MLflow run of each training run or job: creating it, and its record in the run's folder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.tags import RUN_KEY
from cluster.tracking.inputs import DatasetInput
from cluster.tracking.store import artifacts_of, locked, session, store_named, tracking_uri
from odeformer.files.atomic import new_file
from odeformer.files.shown import masked, masked_values

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_FILE = "mlflow.json"
"""File in a run's folder: everything needed to create its MLflow run, and its id once it exists."""
PARENT = "mlflow.parentRunId"
"""MLflow's own tag for nested runs."""
CONTEXT = "mlflow.data.context"
"""MLflow's own tag for what a run uses a dataset for."""
ROWS_AT_ONCE, PARAMETERS_AT_ONCE = 1000, 100
"""MLflow's limits per request."""


def start_run(
    uri: str,
    experiment: str,
    name: str,
    settings: Mapping[str, Any],
    folder: Path,
    tags: Mapping[str, str] | None = None,
    known: str | None = None,
    inputs: Sequence[DatasetInput] = (),
) -> str:
    """Start or resume the MLflow run of the training run in ``folder``.

    Args:
        settings: resolved settings, logged as an artifact and as flat parameters.
        tags: tags of the run; those of a later start replace earlier ones.
        known: id of the MLflow run to use if the folder has no record of one.
        inputs: the datasets that the run reads.

    Returns:
        The id of the MLflow run.

    Raises:
        ConnectionError: when the store cannot be reached. The record in the folder is complete, so that
            :func:`open_run` can start the run later.
    """
    record, here = _record(folder), masked(tracking_uri(uri))
    if masked(str(record.get("tracking_uri"))) != here:
        record = {}
    record = record | {"tracking_uri": here}
    if known is not None and "run_id" not in record:
        record["run_id"] = known
    record = {"key": uuid.uuid4().hex} | record
    # What others may read has no passwords in addresses: neither this file nor what MLflow gets of it.
    kept = masked_values(settings)
    content = {
        "experiment": experiment,
        "name": name,
        "settings": kept,
        "tags": dict(tags or {}),
        "inputs": [asdict(dataset) for dataset in inputs],
    }
    write_json(folder / RUN_FILE, {**record, **content, "tagged": False})
    run_id = open_run(folder)
    with session(uri) as client:
        client.update_run(run_id, status="RUNNING")
    return run_id


def open_run(folder: Path) -> str:
    """The id of the MLflow run recorded in ``folder``, which is created if the store does not have it.

    Raises:
        FileNotFoundError: when no run was started there.
        ConnectionError: when the store cannot be reached.
    """
    _begun(folder)
    # Two processes that found no run at the same time would create two.
    with locked(folder / RUN_FILE):
        return _open_run(folder)


def _open_run(folder: Path) -> str:
    record = _begun(folder)
    uri = run_uri(folder)
    with session(uri, create=True) as client:
        run_id, tags = str(record.get("run_id", "")), record.get("tags", {})
        if run_id and _exists(client, run_id):
            if record.get("tagged", True):
                return run_id
        else:
            run_id = _new_run(
                client, uri, record["experiment"], record["name"], record["settings"], record["key"]
            )
        _set_tags(client, run_id, tags)
        _log_inputs(client, run_id, [DatasetInput(**dataset) for dataset in record.get("inputs", [])])
    write_json(folder / RUN_FILE, {**record, "run_id": run_id, "tagged": True})
    return run_id


def known_run(folder: Path) -> str | None:
    """The id of the MLflow run recorded in ``folder``, if it has one yet."""
    return _record(folder).get("run_id")


def run_uri(folder: Path) -> str:
    """The tracking URI recorded in ``folder``, with its password from this process's settings or environment.

    Raises:
        FileNotFoundError: when no run was started there.
        ValueError: as :func:`cluster.tracking.store.store_named`.
    """
    return store_named(str(_begun(folder)["tracking_uri"]), str(folder / RUN_FILE))


def run_settings(folder: Path) -> dict[str, Any]:
    """The resolved settings recorded in ``folder``.

    Raises:
        FileNotFoundError: when no run was started there.
    """
    return dict(_begun(folder)["settings"])


def run_tags(folder: Path) -> dict[str, str]:
    """The tags recorded in ``folder``, with the versions of code and data.

    Raises:
        FileNotFoundError: when no run was started there.
    """
    return dict(_begun(folder).get("tags", {}))


def tag_run(folder: Path, tags: Mapping[str, str], status: str | None = None) -> None:
    """Set tags, and optionally the status, of the MLflow run recorded in ``folder``.

    Raises:
        FileNotFoundError: when no run was started there.
        ConnectionError: when the store cannot be reached.
    """
    run_id, uri = open_run(folder), run_uri(folder)
    with session(uri) as client:
        _set_tags(client, run_id, tags)
        if status is not None:
            set_status(client, run_id, status)


def set_status(client: MlflowClient, run_id: str, status: str) -> None:
    """Set the status of a run and, for final ones, its end time."""
    if status in ("FINISHED", "FAILED", "KILLED"):
        client.set_terminated(run_id, status)
    else:
        client.update_run(run_id, status=status)


class Row(NamedTuple):
    """A value of a metric. The store keeps equal rows only once."""

    key: str
    value: float
    milliseconds: int
    step: int
    model: str | None = None
    """Id of the logged model that has the metric as well, if any."""


def send_rows(client: MlflowClient, run_id: str, rows: Sequence[Row]) -> None:
    """Log rows of metrics. This is idempotent."""
    from mlflow.entities import Metric

    for start in range(0, len(rows), ROWS_AT_ONCE):
        metrics = [Metric(*row) for row in rows[start : start + ROWS_AT_ONCE]]
        client.log_batch(run_id, metrics, synchronous=True)


def _begun(folder: Path) -> dict[str, Any]:
    record = _record(folder)
    if not record:
        raise FileNotFoundError(f"{folder / RUN_FILE}: no such file; no run was started in this folder")
    return record


def _record(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / RUN_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(
            f"{folder / RUN_FILE} is damaged ({error}): remove it, and start the run again"
        ) from None


def write_json(file: Path, content: Mapping[str, object]) -> None:
    """Write a small file atomically and durably."""
    with new_file(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def finished_run(
    uri: str, experiment: str, name: str, settings: Mapping[str, Any], metrics: Mapping[str, float]
) -> str:
    """Create a finished MLflow run of something already done; returns its id.

    Raises:
        ValueError: when the experiment was deleted.
        ConnectionError: when the store cannot be reached, or refuses it.
    """
    with session(uri, create=True) as client:
        run_id = _new_run(client, uri, experiment, name, settings, uuid.uuid4().hex)
        for key, value in metrics.items():
            client.log_metric(run_id, key, value)
        client.set_terminated(run_id, "FINISHED")
    return run_id


def parent_run(
    uri: str, experiment: str, name: str, settings: Mapping[str, Any], key: str, tags: Mapping[str, str]
) -> str:
    """Create or resume the MLflow run with this key; returns its id, for nested runs' tag :data:`PARENT`.

    Raises:
        ConnectionError: when the store cannot be reached.
    """
    with session(uri, create=True) as client:
        run_id = _new_run(client, uri, experiment, name, settings, key)
        _set_tags(client, run_id, tags)
        client.update_run(run_id, status="RUNNING")
        return run_id


def end_run(
    uri: str, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str], status: str = "FINISHED"
) -> None:
    """Log the results of a run that has no folder, and end it. A repeated call overwrites the first.

    Raises:
        ConnectionError: when the store cannot be reached.
    """
    with session(uri) as client:
        for metric, value in metrics.items():
            client.log_metric(run_id, metric, value)
        _set_tags(client, run_id, tags)
        client.set_terminated(run_id, status)


def _set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()], synchronous=True)


def _log_inputs(client: MlflowClient, run_id: str, inputs: Sequence[DatasetInput]) -> None:
    """Log the datasets of a run. This is idempotent."""
    from mlflow import entities

    logged = [
        entities.DatasetInput(
            entities.Dataset(
                dataset.name, dataset.digest, dataset.source_type, dataset.source, profile=dataset.profile
            ),
            [entities.InputTag(CONTEXT, dataset.use)],
        )
        for dataset in inputs
    ]
    if logged:
        client.log_inputs(run_id, logged)


def _new_run(
    client: MlflowClient, uri: str, experiment: str, name: str, settings: Mapping[str, Any], key: str
) -> str:
    from mlflow.entities import Param

    experiment_id = _experiment(client, experiment, uri)
    existing = client.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{key}'")
    run = existing[0] if existing else client.create_run(experiment_id, run_name=name, tags={RUN_KEY: key})
    run_id = str(run.info.run_id)
    settings = masked_values(settings)
    client.log_dict(run_id, dict(settings), "settings.json")
    parameters = [Param(parameter, str(value)) for parameter, value in flat(settings)]
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
        return str(client.create_experiment(name, artifacts_of(uri)))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    if experiment.lifecycle_stage != "active":
        raise ValueError(
            f"the MLflow experiment {name!r} was deleted: restore it, or for a run choose another "
            "tracking.experiment"
        )
    return str(experiment.experiment_id)


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings by dotted names, as MLflow has them as parameters."""
    rows: list[tuple[str, Any]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", value))
    return rows
