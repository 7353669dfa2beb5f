"""What a server says of itself to Ray's metrics, which Prometheus reads from every node.

Labels have few values: the depths that are offered, and causes, which are codes or statuses of errors. Ray
Serve adds its own, such as the replica's. In a process without Ray nothing is recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.serve import metrics

from cluster.serving.errors import ApiError

if TYPE_CHECKING:
    from cluster.serving.served import Served

MILLISECONDS = [2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
"""Upper bounds of the histogram's buckets."""


class Metrics:
    """The server's metrics by Ray's names; Prometheus sees them with ``ray_`` in front."""

    def __init__(self) -> None:
        self._tokens = metrics.Counter(
            "odeformer_tokens",
            "New tokens by depth, and whether they kept the request's milliseconds per token.",
            tag_keys=("depth", "budget"),
        )
        self._milliseconds = metrics.Histogram(
            "odeformer_token_milliseconds",
            "Milliseconds between two tokens of a request.",
            boundaries=MILLISECONDS,
            tag_keys=("depth",),
        )
        self._refused = metrics.Counter(
            "odeformer_refused_requests", "Requests that were answered with an error.", tag_keys=("cause",)
        )
        self._running = metrics.Gauge(
            "odeformer_running_requests", "Rows of the batch of each depth.", tag_keys=("depth",)
        )
        self._waiting = metrics.Gauge("odeformer_waiting_requests", "Requests that have no token yet.")
        self._cache = metrics.Gauge("odeformer_cache_bytes", "Bytes of the keys and values that are stored.")
        self._cache_bound = metrics.Gauge(
            "odeformer_cache_bound_bytes", "Bytes of keys and values when every place is taken."
        )
        self._adapters = metrics.Gauge("odeformer_adapters", "Adapters in memory.")

    def token(self, depth: int, milliseconds: float | None, budget: float | None) -> None:
        """Count a token.

        Args:
            depth: N of its request.
            milliseconds: time since the token before; None for a request's first one.
            budget: the request's milliseconds per token, if it has any.
        """
        kept = "none"
        if milliseconds is not None:
            self._milliseconds.observe(milliseconds, {"depth": str(depth)})
            kept = kept if budget is None else "kept" if milliseconds <= budget else "missed"
        self._tokens.inc(1, {"depth": str(depth), "budget": kept})

    def refused(self, error: ApiError) -> None:
        """Count a request that was refused, by the error's code or else its status."""
        self._refused.inc(1, {"cause": error.content["error"]["code"] or error.status.name.lower()})

    def state(self, served: Served) -> None:
        """Take note of what is running, stored and loaded now."""
        engine = served.engine
        for depth, rows in engine.running.items():
            self._running.set(rows, {"depth": str(depth)})
        self._waiting.set(engine.waiting)
        self._cache.set(engine.cache_bytes)
        self._cache_bound.set(engine.cache_bound_bytes)
        self._adapters.set(served.loaded_adapters)
