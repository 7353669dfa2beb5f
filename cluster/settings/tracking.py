"""Place of a run's metrics and weights in MLflow, and which weights are registered."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cluster.names import ModelName
from odeformer.section import Section


class TrackingSettings(Section):
    """Place of a run's metrics and weights in MLflow."""

    uri: str | None = None
    """MLflow tracking URI. Default: ``MLFLOW_TRACKING_URI``, else a SQLite file under ``runs/``."""
    experiment: str = "odeformer"
    """MLflow experiment that the run belongs to."""
    register_as: ModelName | None = None
    """Name to register the final weights under, with the alias ``candidate`` and, if the name has none yet,
    ``champion``. Default: do not register them."""


class RegisterSettings(Section):
    """Choice of the weights that are registered under ``tracking.register_as``."""

    best: Annotated[str, Field(min_length=1)] | None = None
    """Name of a score, such as ``python_next_line/acc`` or ``book.txt/nats_per_token``; the checkpoint
    that is best by it is registered, and kept in ``run.dir/best``. It is measured at the model depth or else
    at the largest of ``evaluate.depths``; a suffix selects another depth (``…/acc_4``: N = 4). Default:
    register the final weights."""
