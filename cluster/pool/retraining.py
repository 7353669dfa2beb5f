"""Retraining of adapters whose base is no longer the champion, by the pool that trained them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from cluster.tasks.task import Task

if TYPE_CHECKING:
    from cluster.pool import Pool
    from cluster.registry.family import Outdated


class Retraining(NamedTuple):
    """An outdated adapter, and the job that retrains it."""

    outdated: Outdated
    job: str | None
    """Id of the queued job; ``None`` if none was queued."""
    reason: str | None
    """Why no job was queued."""


def retrain(adapters: Sequence[Outdated], pool: Pool) -> list[Retraining]:
    """Queue each adapter's own task again on the present champion, without its deadline. Idempotent."""
    tasks = {}
    for job in pool.jobs():
        if job.state == "succeeded" and job.result is not None:
            tasks[job.result["adapter_model"]] = job.task

    retrainings = []
    for outdated in adapters:
        content = tasks.get(outdated.adapter.name)
        if content is None:
            reason = "no job of this pool trained it: submit its task again"
            retrainings.append(Retraining(outdated, None, reason))
            continue
        try:
            task = Task.model_validate({**content, "base": outdated.champion, "deadline": None})
            retrainings.append(Retraining(outdated, pool.submit(task), None))
        except (ValueError, OSError) as error:  # the other adapters are still queued
            retrainings.append(Retraining(outdated, None, str(error)))
    return retrainings
