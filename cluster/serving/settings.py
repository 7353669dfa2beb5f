"""Settings of a server. The docstring under a field is its documentation, also for the user."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from odeformer.section import Count, Layers, Section


class ServeSettings(Section):
    """All settings of ``odeformer serve``."""

    model: str
    """The base: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or the folder of a checkpoint."""
    adapters: tuple[str, ...] = ()
    """Registered names of the adapters to serve."""
    all_adapters: bool = False
    """Serve every registered adapter of the base."""
    depths: tuple[Layers, ...] = ()
    """Depths N to offer. Default: those that the model was trained at."""
    cpus: Count = 1
    """Cores and compute threads of the process that decodes."""
    tracking_uri: str | None = None
    """Address of the MLflow store. Default: as for all commands."""
    most_rows: Count = 16
    """Largest number of requests that are decoded together at one depth."""
    most_waiting: Count = 256
    """Largest number of requests that wait; further ones are refused with status 429."""
    most_tokens: Count = 4096
    """Largest number of new tokens of a request."""
    most_adapters: Count = 32
    """Largest number of adapters in memory; the least recently used one is dropped."""
    most_body_bytes: Count = 4 * 2**20
    """Largest size of a request's body in bytes."""
    most_streams: Count = 64
    """Largest number of requests of one key at a time."""
    follow_every: float = Field(default=5.0, gt=0)
    """Seconds between two looks at the registry for a moved alias and new adapters."""
    webhook_secret: Path | None = None
    """File with the secret of a webhook of MLflow's that tells ``/webhooks/mlflow`` of moved aliases; the
    server then looks at once."""
    keys: Path | None = None
    """File of hashed keys, made by ``odeformer serve --add-key``. Required to listen beyond this machine."""
