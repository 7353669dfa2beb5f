"""Connections to Ray."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import psutil
import pytest

from cluster.connection.connect import ray_cluster


def test_private_clusters_have_each_their_own_token_whatever_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray reads its token once per process, so a second cluster would refuse the first one's."""
    import os

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    tokens = []
    for _ in range(2):
        with ray_cluster(None, finetune_slots=1):
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
    assert len(set(tokens)) == 2


@pytest.mark.slow
def test_a_cluster_that_was_too_slow_is_started_once_more() -> None:
    """Ray waits 30 s for its raylet; the first one is stopped before it can answer."""
    stopped: list[psutil.Process] = []
    done = threading.Event()

    def stop_the_first() -> None:
        while not done.is_set() and not stopped:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if process.name() == "raylet":
                        process.suspend()
                        stopped.append(process)
                        return
            time.sleep(0.01)

    watcher = threading.Thread(target=stop_the_first)
    watcher.start()
    try:
        with ray_cluster(None, finetune_slots=1):
            import ray

            assert stopped
            assert not stopped[0].is_running()
            assert ray.get(ray.remote(num_cpus=0)(lambda: 7).remote()) == 7
    finally:
        done.set()
        watcher.join()
