"""The pool on a real Ray cluster: what is submitted, killed, preempted and cancelled."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from pool_tasks import most_at_once, process_of
from prometheus_client.parser import text_string_to_metric_families
from small_runs import events, tiny_shape
from small_tasks import a_task, register_base
from waiting import wait_for

from cluster import registry
from cluster.connection.connect import FINETUNE, PRETRAIN, ray_cluster
from cluster.finetuning.search import SearchedTask
from cluster.names import who
from cluster.pool import Job, Pool, PoolSettings
from cluster.pool.retraining import retrain
from cluster.pool.search import TaskSearch
from cluster.pool.usage import base_costs, by_team, running_seconds
from cluster.registry.family import outdated
from cluster.runs.cost import Cost
from cluster.runs.goodput import Account
from cluster.runs.pace import TimeLeft
from cluster.serving.deployment import metrics_address
from cluster.supervision.metrics import RunMetrics
from cluster.tracking import runs, store
from odeformer import checkpoint
from odeformer.model import Odeformer

THRIFTY = {"thrifty": {"budget": {"slot_hours": 1 / 3600, "per": "month"}}}
LABELS = ("part", "bound", "state", "cause", "team", "run")
LONG = {"steps": 100_000, "global_batch": 8, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the base, the tasks' data and the pool are."""
    folder = tmp_path_factory.mktemp("pool")
    register_base(folder)
    return folder


@pytest.fixture(scope="module")
def settings(folder: Path) -> PoolSettings:
    return PoolSettings.model_validate(
        {
            "dir": folder / "pool",
            "tracking_uri": f"sqlite:///{folder}/mlflow.db",
            "teams": {"one": {"max_running": 1, "max_queued": 2}, "low": {"max_priority": 0}} | THRIFTY,
        }
    )


@pytest.fixture(scope="module")
def pool(settings: PoolSettings) -> Iterator[Pool]:
    """A pool with two slots, beside room for a pretraining worker."""
    with ray_cluster(None, pretrain_workers=1, finetune_slots=2), Pool.start(settings) as pool:
        yield pool


def steps(job: Job) -> list[int]:
    return [event["step"] for event in events(Path(job.folder), "step")]


def is_at_work(pool: Pool, job: str) -> Job:
    """The job, once it has made a step."""
    return wait_for(lambda: pool.job(job) if steps(pool.job(job)) else None)


def test_what_cannot_run_is_refused_before_it_is_queued(pool: Pool, folder: Path) -> None:
    other = folder / "other.jsonl"
    other.write_text('{"text": "one", "label": "number"}\n{"text": "yes", "label": "answer"}\n')
    (folder / "empty.jsonl").write_text("")
    data = a_task(folder).data.model_dump()
    late = datetime.now(UTC) - timedelta(seconds=1)
    for changes, message in (
        ({"data": {**data, "validation": other}}, "data: .*label 'number' does not occur in"),
        ({"data": {**data, "prompt": "{nothing}"}}, "data: .*no field 'nothing'"),
        ({"data": {**data, "train": folder / "empty.jsonl"}}, "data: .*empty"),
        ({"base": "models:/missing@champion"}, "base: .*there are: models:/base"),
        ({"deadline": late}, "deadline: .* has passed"),
        ({"team": "low", "priority": 1}, "priority: 1 is above 0"),
        ({"team": "a--b"}, "team: a--b has two hyphens in a row"),
        ({"name": "b--c"}, "name: b--c has two hyphens in a row"),
    ):
        with pytest.raises(ValueError, match=message):
            pool.submit(a_task(folder, **changes))
    for team in ("../x", "a\x00b", "a\nb", "t" * 300, "", "-a"):
        with pytest.raises(ValueError, match="team"):
            a_task(folder, team=team)
    assert pool.jobs() == []


def test_a_killed_job_goes_on_and_a_quota_holds_the_next_one_of_the_team_back(
    pool: Pool, folder: Path
) -> None:
    import ray

    first = pool.submit(a_task(folder, "one", "first", steps=200))
    wait_for(lambda: pool.job(first).state == "running")
    second = pool.submit(a_task(folder, "one", "second"))
    third = pool.submit(a_task(folder, "one", "third"))
    with pytest.raises(ValueError, match="team: one has 2 jobs queued, its quota"):
        pool.submit(a_task(folder, "one", "fourth"))
    with pytest.raises(ValueError, match="name: team one has a job 'third' already"):
        pool.submit(a_task(folder, "one", "third"))
    is_at_work(pool, first)
    process = process_of(pool.job(first))
    assert process is not None
    process.suspend()  # however long the rest takes, it is not done by then
    assert ray.available_resources()[PRETRAIN] == 1
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"], "none is pretraining's loss"
    assert FINETUNE not in ray.available_resources()
    wait_for(lambda: pool.status()["slots"]["starting"] == 0)
    assert pool.status()["slots"] == {"free": 1, "busy": 1, "starting": 0}, "the team has one at a time"
    process.kill()
    jobs = pool.wait(first, second, third)
    assert [job.state for job in jobs] == ["succeeded"] * 3
    assert jobs[0].attempts == 2
    killed = [entry.reason for entry in pool.job(first).history if entry.state == "queued"]
    assert killed == [f"submitted by {who()}", "its process died (killed, or out of memory)"]
    assert sorted(set(steps(jobs[0]))) == list(range(1, 201))
    assert most_at_once(pool.transitions(), "one") == 1
    assert jobs[0].result["before"] == events(Path(jobs[0].folder), "validation")[0]["validation_accuracy"], (
        "the base's, not what the second process found"
    )
    versions = [version.name for version in registry.versions(pool.uri())]
    assert sorted(versions) == ["base", "base--one--first", "base--one--second", "base--one--third"]


def test_a_killed_job_may_fail_alone_and_pretraining_keeps_its_place(
    pool: Pool, settings: PoolSettings, folder: Path
) -> None:
    import ray

    @ray.remote(num_cpus=1, resources={PRETRAIN: 1})
    class Worker:
        def beats(self) -> int:
            return 1

    Pool.start(settings.model_copy(update={"max_failures": 0}))
    worker = Worker.remote()
    assert ray.get(worker.beats.remote()) == 1
    doomed = pool.submit(a_task(folder, "one", "doomed", train=LONG))
    is_at_work(pool, doomed)
    waiting = pool.submit(a_task(folder, "one", "waiting", steps=20))
    (folder / "gone").mkdir()
    gone = a_task(folder / "gone", "one", "gone")
    lost = pool.submit(gone)
    gone.data.train.unlink()
    assert [pool.job(job).state for job in (doomed, waiting, lost)] == ["running", "queued", "queued"]
    process = process_of(pool.job(doomed))
    assert process is not None
    process.kill()
    first, second, third = pool.wait(doomed, waiting, lost)
    assert ray.get(worker.beats.remote()) == 1, "the same actor: it was not restarted"
    ray.kill(worker)
    assert (first.state, first.error) == ("failed", "its process died (killed, or out of memory)")
    assert second.state == "succeeded", second.error
    assert second.result["after"] > second.result["before"]
    versions = {version.name for version in registry.versions(pool.uri())}
    assert "base--one--waiting" in versions
    assert not versions & {"base--one--doomed", "base--one--gone"}
    assert (third.state, third.attempts) == ("failed", 1), "no new start would mend it"
    assert third.error.startswith("FileNotFoundError: ")
    assert not list(Path(first.folder).glob("adapter*")), "nothing that looks like an adapter"
    Pool.start(settings)


def test_a_job_that_is_stopped_or_too_large_does_not_keep_its_slot(
    pool: Pool, settings: PoolSettings, folder: Path
) -> None:
    Pool.start(settings.model_copy(update={"stuck_after": 10, "max_failures": 100}))
    stopped = pool.submit(a_task(folder, "a", "stopped", train=LONG))
    is_at_work(pool, stopped)
    process = process_of(pool.job(stopped))
    assert process is not None
    process.suspend()
    wait_for(lambda: pool.job(stopped).attempts > 1)
    killed = [str(entry.reason) for entry in pool.job(stopped).history if entry.state == "queued"]
    assert killed[1].startswith("its process was stuck: no heartbeat for ")
    pool.cancel(stopped)
    Pool.start(settings.model_copy(update={"memory_per_slot": 0.05}))
    [large] = pool.wait(pool.submit(a_task(folder, "a", "large", train=LONG)))
    assert large.error == "its process used more memory than memory_per_slot allows, and was killed"
    assert large.attempts == 1, "another try would not mend it"
    Pool.start(settings.model_copy(update={"unknown_teams": "refuse"}))
    with pytest.raises(ValueError, match="team: a is none of the pool's teams"):
        pool.submit(a_task(folder, "a", "refused"))
    assert [job.state for job in pool.wait(stopped)] == ["cancelled"]
    Pool.start(settings)


def test_one_of_a_higher_priority_has_the_slot_and_the_other_goes_on_later(pool: Pool, folder: Path) -> None:
    low = [pool.submit(a_task(folder, "low", name, train=LONG)) for name in ("x", "y")]
    for job in low:
        is_at_work(pool, job)
    urgent = pool.submit(a_task(folder, "urgent", "now", priority=5))
    [done] = pool.wait(urgent)
    assert done.state == "succeeded", done.error
    preempted = [job for job in map(pool.job, low) if len(job.history) > 2]
    assert len(preempted) == 1, "one was enough"
    assert preempted[0].history[2].state == "queued"
    assert preempted[0].history[2].reason == "preempted by a higher priority"
    [committed] = [event["step"] for event in events(Path(preempted[0].folder), "preempted")]
    resumed = wait_for(lambda: events(Path(preempted[0].folder), "resumed"))
    assert resumed[0]["step"] == committed
    for job in low:
        pool.cancel(job)
    assert [job.state for job in pool.wait(*low)] == ["cancelled", "cancelled"]


def test_a_team_whose_slot_hours_are_spent_waits_for_more(
    pool: Pool, settings: PoolSettings, folder: Path
) -> None:
    job = pool.submit(a_task(folder, "thrifty", "long", train=LONG))
    wait_for(lambda: len(pool.job(job).history) == 3)
    shown = pool.job(job)
    assert (shown.state, shown.reason) == ("queued", "its team's budget is spent")
    assert shown.waits_for.startswith("the next month: ")
    [committed] = [event["step"] for event in events(Path(shown.folder), "preempted")]
    [team] = [team for team in pool.status()["teams"] if team["team"] == "thrifty"]
    assert 1 <= 3600 * team["spent_hours"]["month"] < 60, "its step and its commit, no more"
    more = {"thrifty": settings.team("thrifty").model_copy(update={"budget": None})}
    Pool.start(settings.model_copy(update={"teams": {**settings.teams, **more}}))
    resumed = wait_for(lambda: events(Path(shown.folder), "resumed"))
    assert resumed[0]["step"] == committed
    pool.cancel(job)
    assert [job.state for job in pool.wait(job)] == ["cancelled"]


def test_trials_of_a_search_are_jobs_and_only_the_best_is_made_a_version(pool: Pool, folder: Path) -> None:
    space = {"train.learning_rate": {"low": 1e-3, "high": 0.1, "log": True}, "adapter.rank": [2, 4]}
    content = a_task(folder, "a", "searched", steps=8).model_dump()
    how = {"space": space, "trials": 4, "at_once": 2, "validations": 2}
    search = TaskSearch(pool, SearchedTask.model_validate({**content, "search": how}))
    search.run()
    [final] = pool.wait(search.submit_best())
    trials = list(search.trials.values())
    assert [list(trial.validations) for trial in trials] == [[0, 4, 8]] * 4
    assert search.best is not None
    assert search.best.result == max(trial.result for trial in trials if trial.result is not None)
    assert final.result["after"] == search.best.result, "the same settings, the same job"
    versions = {version.name for version in registry.versions(pool.uri())}
    assert "base--a--searched" in versions
    assert not any("trial" in name for name in versions)
    assert {pool.job(trial.job).state for trial in trials} == {"succeeded"}
    client = store.connect(pool.uri())
    of_jobs = [runs.known_run(Path(pool.job(job).folder)) for job in (*search.trials, final.id)]
    parents = {client.get_run(run).data.tags["mlflow.parentRunId"] for run in of_jobs if run}
    [parent] = parents
    found = client.get_run(parent)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["best_accuracy"] == search.best.result
    assert json.loads(found.data.tags["odeformer.best_trial"])["job"] == search.best.job
    assert len(of_jobs) == 5


def test_the_pool_is_killed_and_goes_on(pool: Pool, folder: Path) -> None:
    running = pool.submit(a_task(folder, "a", "running", train=LONG))
    is_at_work(pool, running)
    waiting = [pool.submit(a_task(folder, "one", name)) for name in ("fifth", "sixth")]
    [actor] = [p for p in psutil.Process().children(recursive=True) if p.name() == "ray::PoolActor"]
    before = process_of(pool.job(running))
    actor.kill()
    assert [job.state for job in pool.wait(*waiting)] == ["succeeded", "succeeded"]
    wait_for(lambda: pool.job(running).attempts == 2)
    pool.cancel(running)
    [cancelled] = pool.wait(running)
    assert cancelled.state == "cancelled"
    assert before is not None
    assert not before.is_running(), "nobody writes beside a successor"
    reasons = [entry.reason for entry in pool.job(running).history if entry.state == "queued"]
    assert reasons == [f"submitted by {who()}", "its process went with the pool"]
    assert pool.job(running).history[-1].reason == f"by {who()}"
    versions = [v.version for v in registry.versions(pool.uri()) if v.name == "base--one--fifth"]
    assert versions == ["1"]
    assert [t["max_running"] for t in pool.status()["teams"] if t["team"] == "one"] == [1], "from the journal"


def test_prometheus_reads_the_pool_and_a_run_where_ray_has_its_metrics(pool: Pool, folder: Path) -> None:
    jobs = [pool.submit(a_task(folder, team=team, name="counted")) for team in ("one", "never-named")]
    assert [job.state for job in pool.wait(*jobs)] == ["succeeded"] * 2
    run, account = RunMetrics("first", 4), Account()
    step = {"loss": 2.5, "tokens": 512, "tokens_per_second": 100.0, "step_seconds": 1.0}
    began = time.time() - 11.0
    events_of_run: tuple[dict[str, Any], ...] = (
        {"time": 0.0, "event": "launched", "step": 0},
        {"time": 8.0, "event": "placed", "step": 0, "workers": 2},
        {"time": 10.0, "event": "started", "step": 0, "workers": 2, "reason": ""},
        {"time": 11.0, "event": "step", "step": 1, **step},
        {"time": 11.0, "event": "slow", "step": 1},
    )
    for event in events_of_run:
        account.add({**event, "time": began + event["time"]})
        run.take(event, TimeLeft(3.0, 2.0, 4.0))
    expected = {
        ("ray_odeformer_run_loss", "first"): 2.5,
        ("ray_odeformer_run_steps", "first"): 4.0,
        ("ray_odeformer_run_workers", "first"): 2.0,
        ("ray_odeformer_run_seconds", "restart", "first"): 10.0,
        ("ray_odeformer_run_seconds_left", "low", "first"): 2.0,
        ("ray_odeformer_run_slow_workers", "first"): 1.0,
        ("ray_odeformer_pool_queued", "one"): 0.0,
        ("ray_odeformer_pool_queued", "(others)"): 0.0,
        ("ray_odeformer_pool_running", "(others)"): 0.0,
        ("ray_odeformer_pool_slots", "free"): 2.0,
    }

    def scraped() -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {}
        for family in text_string_to_metric_families(requests.get(metrics_address(), timeout=60).text):
            for sample in family.samples:
                own = [sample.labels[key] for key in LABELS if key in sample.labels]
                if sample.name.startswith("ray_odeformer_"):
                    found[(sample.name, *own)] = sample.value
        return found

    def shown() -> dict[tuple[str, ...], float]:
        run.refresh(account)  # Ray forgets what is not set again
        return {key: value for key, value in scraped().items() if key in expected}

    wait_for(lambda: shown() == pytest.approx(expected), lambda: str(shown()), pause=1.0)
    found = scraped()
    assert found["ray_odeformer_run_seconds", "train", "first"] >= 1.0
    assert found["ray_odeformer_pool_waited_seconds_count", "(others)"] >= 1
    assert found["ray_odeformer_pool_slot_seconds", "one"] > 0
    assert not any("never-named" in key for key in found)


def test_a_running_job_says_how_long_it_still_takes(pool: Pool, folder: Path) -> None:
    job = pool.submit(a_task(folder, team="two", name="paced", train=LONG))
    left = wait_for(lambda: pool.job(job).time_left)
    assert 0 <= left.low <= left.seconds <= left.high
    pool.cancel(job)
    [ended] = pool.wait(job)
    assert pool.job(ended.id).time_left is None


def test_deadlines_retries_and_the_end_of_a_pool(pool: Pool, settings: PoolSettings, folder: Path) -> None:
    again = pool.submit(a_task(folder, "a", "again", train=LONG))
    is_at_work(pool, again)
    late = at_work_until(pool, folder, seconds=10)
    pool.cancel(again)
    [cancelled] = pool.wait(again)
    assert cancelled.state == "cancelled"
    assert pool.retry(again) == "queued"
    [failed] = pool.wait(late)
    assert (failed.state, failed.error) == ("failed", "past its deadline")
    with pytest.raises(ValueError, match="past its deadline"):
        pool.retry(late)
    with pytest.raises(ValueError, match="there is nothing to retry"):
        pool.retry("one/first/1")
    pool.drain()
    with pytest.raises(ValueError, match="drained"):
        pool.submit(a_task(folder, "a", "refused"))
    run = store.connect(pool.uri()).get_run(runs.known_run(Path(failed.folder)) or "")
    wait_for(lambda: mlflow_tags(pool, failed).get("odeformer.job_state") == "failed")
    assert run.data.tags["odeformer.base_version"] == "1"
    pool.stop()
    with pytest.raises(ConnectionError, match="there is no pool"):
        Pool.connect()
    again_started = Pool.start(settings)
    assert again_started.status()["state"] == "running"
    assert json.dumps([asdict(job) for job in again_started.jobs()]), "they are plain values"
    job = again_started.job(again)
    assert job.state in ("queued", "running")
    assert again_started.find("a/again") == again_started.find("again") == again
    again_started.cancel(again)


def at_work_until(pool: Pool, folder: Path, seconds: float) -> str:
    """A job that makes steps before its deadline, which is later where a busy machine was slower."""
    soon = datetime.now(UTC) + timedelta(seconds=seconds)
    late = pool.submit(a_task(folder, "a", f"late-{seconds:.0f}", train=LONG, deadline=soon))
    wait_for(lambda: pool.job(late).state == "failed" or steps(pool.job(late)))
    return late if steps(pool.job(late)) else at_work_until(pool, folder, 3 * seconds)


def mlflow_tags(pool: Pool, job: Job) -> dict[str, str]:
    run_id = runs.known_run(Path(job.folder))
    assert run_id is not None
    return dict(store.connect(pool.uri()).get_run(run_id).data.tags)


def test_what_was_made_on_an_older_base_is_made_anew_once_and_costs_are_shared(
    pool: Pool, folder: Path
) -> None:
    uri = f"sqlite:///{folder}/mlflow.db"
    assert outdated(uri) == []
    newer = Odeformer(tiny_shape(vocabulary_size=300, context_length=32))
    checkpoint.save(newer.state_dict(), newer.config, "euler", folder / "tokenizer.json", folder / "newer")
    run_id = runs.start_run(uri, "test", "newer", {}, folder / "newer-run")
    tags = {"odeformer.kind": "checkpoint", "odeformer.cpu_hours": "6", "odeformer.parent": "models:/base/1"}
    registry.register_version(folder / "newer", "base", run_id=run_id, uri=uri, tags=tags, alias="champion")
    left = [one for one in outdated(uri) if one.adapter.name in ("base--one--fifth", "base--one--sixth")]
    with Pool.connect() as again:
        queued = retrain(left, again)
        jobs = [one.job for one in queued]
        assert all(job is not None for job in jobs), queued
        ended = again.wait(*(job for job in jobs if job))
        assert {job.state for job in ended} == {"succeeded"}
        assert all(one.job is None and "already" in str(one.reason) for one in retrain(left, again))
        seconds = running_seconds(again.transitions())
        costs = base_costs((job.base for job in again.jobs()), uri)
        teams = {team.team: team for team in by_team(again.jobs(), seconds, Cost(1.0), costs)}
    assert costs == {"models:/base/1": Cost(), "models:/base/2": Cost(6.0)}
    assert teams["one"].share == Cost(6.0), "alone on the newer base"
    assert teams["a"].share == Cost()
    assert teams["a"].own.cpu_hours > 0
