"""Fine-tuning sets: from a team's file to batches in which only what is to be learned counts."""

from data.tasks.examples import Example, Kind, TaskSets, labels, read_examples, read_task_sets
from data.tasks.stream import TaskStream, Window, encode

__all__ = [
    "Example",
    "Kind",
    "TaskSets",
    "TaskStream",
    "Window",
    "encode",
    "labels",
    "read_examples",
    "read_task_sets",
]
