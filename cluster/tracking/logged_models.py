"""MLflow's logged models: one for each commit of a run that was scored, with its scores.

They hold no files: the weights of every scored commit would fill a store. That of the registered weights
names the registered version.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cluster.tags import LOGGED_MODEL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

VERSIONS = "mlflow.modelVersions"
"""MLflow's own tag for the registered versions of a logged model."""
MODEL_TYPE = "odeformer"


def model_of_step(client: MlflowClient, run_id: str, step: int) -> str:
    """The id of a run's logged model at a step, which is created if there is none.

    Only one process at a time may call it for a run.
    """
    model = _found(client, run_id, step)
    if model is None:
        model = client.create_logged_model(
            client.get_run(run_id).info.experiment_id,
            name=_name(step),
            source_run_id=run_id,
            params={"step": str(step)},
            model_type=MODEL_TYPE,
        )
    if str(model.status) != "READY":
        client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def link(client: MlflowClient, run_id: str, step: int, name: str, version: str) -> None:
    """Let a run's logged model at a step and the version of its weights name each other. Idempotent."""
    model = _found(client, run_id, step)
    if model is None:
        return
    ours = {"name": name, "version": version}
    named = json.loads(model.tags.get(VERSIONS, "[]"))
    if ours not in named:
        client.set_logged_model_tags(model.model_id, {VERSIONS: json.dumps([*named, ours])})
    client.set_model_version_tag(name, version, LOGGED_MODEL, model.model_id)


def _found(client: MlflowClient, run_id: str, step: int) -> LoggedModel | None:
    experiment = client.get_run(run_id).info.experiment_id
    wanted = f"source_run_id = '{run_id}' AND name = '{_name(step)}'"
    return next(iter(client.search_logged_models([experiment], wanted, max_results=1)), None)


def _name(step: int) -> str:
    return f"step-{step:09d}"
