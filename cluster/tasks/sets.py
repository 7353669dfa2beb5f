"""The training and validation examples of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.tasks.task import Task

if TYPE_CHECKING:
    from data.tasks.examples import TaskSets


def read_sets(task: Task) -> TaskSets:
    """Both sets of a task, checked.

    Raises:
        ValueError, FileNotFoundError: for malformed data, or validation labels that training never shows.
    """
    from data.tasks.examples import read_task_sets

    data = task.data
    return read_task_sets(data.train, data.validation, task.kind, data.prompt, data.completion, data.held_out)
