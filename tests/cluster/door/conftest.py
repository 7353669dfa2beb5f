"""One door for the tests of a file, with a Ray cluster of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from doors import ALONE, TEAMS, Door
from small_tasks import register_base
from web_threads import start

from cluster.connection.connect import ray_cluster
from cluster.door.api import make_app
from cluster.door.settings import DoorSettings
from cluster.pool import Pool, PoolSettings


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A pool with one slot, and a door with narrow limits."""
    folder = tmp_path_factory.mktemp("door")
    settings = PoolSettings.model_validate(
        {
            "dir": folder / "pool",
            "tracking_uri": register_base(folder),
            "teams": {"lab": {"max_queued": 1, "max_priority": 0}},
        }
    )
    limits = DoorSettings(most_file_bytes=2**22, most_files=20, most_open=8, most_open_bytes=2**22 + 2**19)
    with ray_cluster(None, finetune_slots=1), Pool.start(settings) as pool:
        web, thread, url = start(make_app(limits))
        keys = {team: pool.add_key(team)[1] for team in (*TEAMS, ALONE)}
        yield Door(url, pool, folder, keys, pool.add_key("ops", "admin")[1])
        web.should_exit = True
        thread.join()


@pytest.fixture(autouse=True)
def no_job_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails with a long job in the pool's one slot does not make the next one wait for it."""
    yield
    if "door" in request.fixturenames:
        pool = request.getfixturevalue("door").pool
        left = [job.id for job in pool.jobs() if job.state in ("queued", "running")]
        for job in left:
            pool.cancel(job)
        pool.wait(*left)
