"""Adapters whose base has been succeeded, made anew on the new one by the pool that made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from cluster.tasks.task import Task

if TYPE_CHECKING:
    from cluster.pool import Pool
    from cluster.registry.family import Outdated


class Retraining(NamedTuple):
    """What became of one of them."""

    outdated: Outdated
    job: str | None
    """The job that was queued."""
    reason: str | None
    """Why none was."""


def retrain(adapters: Sequence[Outdated], pool: Pool) -> list[Retraining]:
    """Queue each adapter's own task once more, on the present champion. Asked again, nothing is queued twice.

    Its deadline, which was for the adapter before, does not count.
    """
    made_by = {
        job["result"]["adapter_model"]: job["task"] for job in pool.jobs() if job["state"] == "succeeded"
    }
    found = []
    for one in adapters:
        content = made_by.get(one.adapter.name)
        if content is None:
            found.append(Retraining(one, None, "no job of this pool made it: submit its task again"))
            continue
        try:
            task = Task.model_validate({**content, "base": one.champion, "deadline": None})
            found.append(Retraining(one, pool.submit(task), None))
        except (ValueError, OSError) as error:  # the others are queued all the same
            found.append(Retraining(one, None, str(error)))
    return found
