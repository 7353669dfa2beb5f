"""Scoring of a run's commits beside training: one at a time, by a Ray task that no worker waits for."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.checkpoints import folder, scores
from cluster.checkpoints.scores import Best, Record
from cluster.connection import credentials
from cluster.connection.connect import worker_environment
from cluster.evaluation.scoring import Scored, score_commit, score_named
from cluster.runs import heartbeat
from cluster.runs.background import in_background
from cluster.runs.events import Event, EventLog
from cluster.runs.failures import cause
from cluster.settings import PretrainSettings
from cluster.supervision import orphans, watchdog
from cluster.supervision.room import freest_node
from cluster.supervision.supervisor import OnEvent
from cluster.supervision.watchdog import Watchdog
from cluster.tracking.upload import SAMPLES
from odeformer.files.atomic import new_file, new_folder
from odeformer.files.checks import CHECKPOINT, check_replaceable
from odeformer.files.errors import reason

FOLDER, BEST = "scoring", "best"
"""Folders in ``run.dir``: of the scoring in progress, and of the best commit's weights."""
ATTEMPTS = 2
LOOK_SECONDS = 1.0
NICE = 19
"""Priority of a scoring, the lowest: on a busy machine it takes what training leaves."""
COLUMNS = ("step", "depth", "prompt", "text")


@contextmanager
def scoring_beside(settings: PretrainSettings, on_event: OnEvent) -> Iterator[Callable[[], None]]:
    """Score the run's commits from a thread while the block runs. Ray must be connected.

    Nothing that goes wrong here is raised: it is reported as ``not_scored``.

    Args:
        on_event: called with each event, also from the thread.

    Yields:
        A function that waits until all commits are scored, to call when training has ended.
    """
    if settings.evaluate.every is None:
        (settings.run.dir / scores.FILE_NAME).unlink(missing_ok=True)
        yield lambda: None
        return
    scorer = _Scorer(settings, on_event)
    try:
        with in_background(scorer.look_until):
            yield scorer.finish
    finally:
        scorer.stop()


class _Scorer:
    """Scores one commit after another, oldest first."""

    def __init__(self, settings: PretrainSettings, on_event: OnEvent) -> None:
        self._settings, self._run, self._on_event = settings, settings.run.dir, on_event
        self._log = EventLog(self._run)
        self._job: _Job | None = None
        self._lock = threading.Lock()
        before, every = scores.read(self._run), settings.evaluate.every
        assert every is not None
        new = Record(every=every, last=settings.train.steps)
        if before is not None:
            new = before.model_copy(update={"every": every, "last": new.last})
        if new.best is not None and new.best.score != _best_by(settings, [new.best.score]):
            new = new.model_copy(update={"best": None})
        self._record = new
        scores.write(self._run, new)

    def look_until(self, ended: threading.Event) -> None:
        """Score until ``ended`` is set, in a thread."""
        problem = ""
        while not ended.wait(LOOK_SECONDS):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - of Ray, MLflow or the disk; it must not harm the run
                if reason(error) != problem:
                    problem = reason(error)
                    self._say(Event.NOT_SCORED, 0, problem)

    def finish(self) -> None:
        """Score all commits that wait, then remove those that were only kept for that."""
        waits = scores.waiting(self._run)
        if waits:
            count = f"{len(waits)} checkpoint{'s' if len(waits) > 1 else ''}"
            self._say(Event.SCORES_WAIT, self._settings.train.steps, count)
        try:
            while self._look():
                threading.Event().wait(LOOK_SECONDS / 5)
            folder.prune(self._run / "checkpoints", self._settings.checkpoint)
        except Exception as error:  # noqa: BLE001 - as above
            self._say(Event.NOT_SCORED, self._settings.train.steps, reason(error))

    def stop(self) -> None:
        """End the scoring in progress, if any; the next start of the run begins it again."""
        with self._lock:
            if self._job is not None:
                self._job.end()
                self._job = None

    def _look(self) -> bool:
        """Begin, follow or end a scoring; returns whether there is more to do."""
        with self._lock:
            if self._job is None:
                commit = next(iter(scores.waiting(self._run)), None)
                if commit is not None:
                    self._job = _Job(self._settings, commit)
                return commit is not None
            outcome = self._job.outcome()
            if outcome is not None:
                job, self._job = self._job, None
                self._note(job, outcome)
                shutil.rmtree(job.folder, ignore_errors=True)
            return True

    def _note(self, job: _Job, outcome: Scored | str) -> None:
        step, record = job.step, self._record.model_copy(deep=True)
        if isinstance(outcome, Scored):
            try:
                self._keep(record, job, outcome)
            except OSError as error:
                outcome = f"its scores cannot be kept: {reason(error)}"
        if isinstance(outcome, str):
            record.failed.append(step)
            if record.failed.count(step) < ATTEMPTS:
                self._say(Event.SCORING_REPEATED, step, outcome)
            else:
                self._say(Event.NOT_SCORED, step, outcome)
                record.done.append(step)
        # Last: whoever is killed before scores the commit again, and MLflow takes equal scores only once.
        scores.write(self._run, record)
        self._record = record

    def _keep(self, record: Record, job: _Job, scored: Scored) -> None:
        self._keep_if_best(record, job, scored)
        if scored.samples:
            _add_samples(self._run / SAMPLES, job.step, scored)
        self._on_event(self._log(Event.SCORED, job.step, scored.metrics))
        record.done.append(job.step)

    def _keep_if_best(self, record: Record, job: _Job, scored: Scored) -> None:
        if self._settings.register.best is None:
            return
        name = _best_by(self._settings, list(scored.metrics))
        if name is None:
            there = ", ".join(sorted(scored.metrics)) or "none"
            self._say(
                Event.NOT_SCORED, job.step, f"no score {self._settings.register.best!r}; there are: {there}"
            )
            return
        value, best = scored.metrics[name], record.best
        sign = 1 if name in scored.higher_is_better else -1
        if not math.isfinite(value) or (best is not None and sign * value <= sign * best.value):
            return
        place = self._run / BEST
        with new_folder(place, lambda: check_replaceable(place, CHECKPOINT)) as target:
            for file in (job.folder / "model").iterdir():
                file.rename(target / file.name)
        record.best = Best(step=job.step, score=name, value=value)

    def _say(self, event: Event, step: int, why: str) -> None:
        self._on_event(self._log(event, step, {"reason": why}))


class _Job:
    """The scoring of a commit, which has begun."""

    def __init__(self, settings: PretrainSettings, commit: Path) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.step, self.folder = folder.step_of(commit), settings.run.dir / FOLDER
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._dog = Watchdog(self.folder / heartbeat.FOLDER, settings.cluster.stuck_after)
        self._stuck: watchdog.Stuck | None = None
        # As the group of workers: not in the arguments, which Ray shows.
        content = settings.model_dump(mode="json")

        def work() -> Scored:
            return _score(content, commit)

        # No resources of Ray's and no GPU: a run that restarts must never wait for them. One task a process,
        # which ends with everything that others' tasks have loaded into it.
        variables = {**worker_environment(settings.cluster.cpus_per_worker), "CUDA_VISIBLE_DEVICES": ""}
        task = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(work).options(
            name=f"score {commit.name}",
            runtime_env={"env_vars": variables},
            scheduling_strategy=NodeAffinitySchedulingStrategy(freest_node(), soft=True),
        )
        self._result = task.remote()

    def outcome(self) -> Scored | str | None:
        """The scores, or why there are none; ``None`` while they are computed."""
        import ray

        ended, _ = ray.wait([self._result], timeout=0)
        if not ended:
            stuck = self._dog.look()
            if stuck is not None:
                self._stuck = stuck
                watchdog.end([stuck.process])
            return None
        try:
            scored: Scored = ray.get(self._result)
        except Exception as error:  # noqa: BLE001 - a task may run code of others
            return cause(error) if self._stuck is None else f"it is {self._stuck.how}"
        return scored

    def end(self) -> None:
        """Kill the process, also one that is stopped."""
        import ray

        with suppress(Exception):  # of a cluster that is gone
            ray.cancel(self._result, force=True)
            watchdog.end(self._dog.processes())
        shutil.rmtree(self.folder, ignore_errors=True)


def _score(content: dict[str, Any], commit: Path) -> Scored:
    """Score a commit, in the process of the task."""
    import ray
    from torch.nn.modules import module

    settings = PretrainSettings.model_validate(content)
    place = settings.run.dir / FOLDER
    orphans.end_with_parent()
    credentials.take(settings.run.dir)
    os.nice(NICE)
    tempfile.tempdir = str(place)  # removed with it, however this process ends
    # Each pass through a model is progress: what waits forever for a file, a lock or a server makes none.
    module.register_module_forward_hook(lambda *_: heartbeat.passed())
    node = ray.get_runtime_context().get_node_id()
    with heartbeat.beating(place / heartbeat.FOLDER, 0, node):
        return score_commit(commit, settings, place / "model")


def _best_by(settings: PretrainSettings, metrics: list[str]) -> str | None:
    best = settings.register.best
    return None if best is None else score_named(best, settings, metrics)


def _add_samples(file: Path, step: int, scored: Scored) -> None:
    """Add the samples of a commit to the run's table, in the form of MLflow's tables."""
    rows: list[list[Any]] = []
    with suppress(FileNotFoundError, ValueError, KeyError):
        rows = [row for row in json.loads(file.read_text(encoding="utf-8"))["data"] if row[0] != step]
    rows += [[step, *sample] for sample in scored.samples]
    with new_file(file) as temporary:
        temporary.write_text(json.dumps({"columns": COLUMNS, "data": rows}, indent=1), encoding="utf-8")
