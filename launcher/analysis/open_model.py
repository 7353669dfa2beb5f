"""The model that ``odeformer analyze`` and ``odeformer drift`` look at."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.registry import Loaded


def open_model(model: str, adapter: str | None, tracking_uri: str | None) -> tuple[Loaded, dict[str, Any]]:
    """The model with a solver that can be looked into, and what a file of findings says of it.

    Args:
        model, adapter: as :func:`cluster.registry.load` takes them.

    Raises:
        ValueError, FileNotFoundError: when it is unknown, damaged, or an adapter of another base.
    """
    from cluster import registry
    from odeformer.analysis.digest import weights_digest
    from odeformer.analysis.flow import flow_solver

    loaded = registry.load(model, tracking_uri, adapter)
    described = {
        "name": model,
        "adapter": adapter,
        "versions": [version.uri for version in loaded.versions],
        "weights_sha256": weights_digest(loaded.model),
        "trained_by": loaded.model.solver,
    }
    # For a solver without steps of x alone, the flavour's layers.
    loaded.model.options = replace(loaded.model.options, solver=flow_solver(loaded.model))
    return loaded, described
