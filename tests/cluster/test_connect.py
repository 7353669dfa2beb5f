"""Connections to Ray."""

from __future__ import annotations

from cluster.connect import ray_cluster


def test_clusters_of_one_process_have_each_their_own_token() -> None:
    """Ray reads its token once per process; the second cluster would be locked out by the first one's."""
    import os

    tokens = []
    for _ in range(2):
        with ray_cluster(None, finetune_slots=1):
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
    assert len(set(tokens)) == 2
