"""A fine-tune job is killed, or runs out of memory: it alone fails, and the registry has no half of it."""

from __future__ import annotations

from pathlib import Path

from pool_tasks import process_of
from small_runs import events
from small_tasks import a_task, register_base
from waiting import wait_for

from cluster import registry
from cluster.connect import PRETRAIN, ray_cluster
from cluster.pool import Pool, PoolSettings

LONG = {"steps": 100_000, "global_batch": 8, "learning_rate": 1e-4}


def test_a_killed_job_fails_alone_and_pretraining_keeps_its_place(tmp_path: Path) -> None:
    import ray

    uri = register_base(tmp_path)
    (tmp_path / "gone").mkdir()
    settings = PoolSettings(dir=tmp_path / "pool", tracking_uri=uri, max_failures=0)
    with ray_cluster(None, pretrain_workers=1, finetune_slots=1), Pool.start(settings) as pool:

        @ray.remote(num_cpus=1, resources={PRETRAIN: 1})
        class Worker:
            def beats(self) -> int:
                return 1

        worker = Worker.remote()
        doomed = pool.submit(a_task(tmp_path, "doomed", train=LONG))
        waiting = pool.submit(a_task(tmp_path, "waiting", steps=20))
        wait_for(lambda: events(Path(pool.job(doomed)["folder"]), "step"))
        assert ray.get(worker.beats.remote()) == 1
        states = {job["id"]: job["state"] for job in pool.jobs()}
        assert states == {doomed: "running", waiting: "queued"}, "one slot, one job"
        process = process_of(pool.job(doomed))
        assert process is not None
        gone = a_task(tmp_path / "gone", "gone")
        lost = pool.submit(gone)
        gone.data.train.unlink()
        process.kill()
        first, second, third = pool.wait(doomed, waiting, lost)
        assert ray.get(worker.beats.remote()) == 1, "the same actor: it was not restarted"
    assert (first["state"], first["error"]) == ("failed", "its process died (killed, or out of memory)")
    assert second["state"] == "succeeded", second["error"]
    assert second["result"]["after"] > second["result"]["before"]
    assert {version.name for version in registry.versions(uri)} == {"base", "base-waiting-kind"}
    assert (third["state"], third["attempts"]) == ("failed", 1), "no new start would mend it"
    assert third["error"].startswith("FileNotFoundError: ")
    assert not list(Path(first["folder"]).glob("adapter*")), "nothing that looks like an adapter"
