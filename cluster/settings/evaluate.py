"""Scores of checkpoints, measured beside training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from cluster.settings.bounds import Steps
from odeformer.section import Count, Layers, Section


class EvaluateSettings(Section):
    """Scores of checkpoints, measured beside training by a process that no worker waits for."""

    every: Steps | None = None
    """Optimizer steps between scored checkpoints, a multiple of ``checkpoint.every``; the last one is scored,
    too. A checkpoint is kept until it has been scored. Default: none is scored."""
    tasks: tuple[str, ...] = ()
    """LM Evaluation Harness tasks, as for ``odeformer eval --tasks``."""
    task_folder: Path | None = None
    """Folder of your own LM Evaluation Harness tasks. Default: that of the package."""
    limit: Count | None = None
    """Maximum number of examples per task. Default: all."""
    texts: tuple[Path, ...] = ()
    """Held-out text files to measure the loss on, such as one for each source of the shards."""
    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts to continue with up to 64 of the most likely tokens."""
    depths: tuple[Layers, ...] = ()
    """Depths N to score at. Default: the model depth."""

    @model_validator(mode="after")
    def _says_what(self) -> EvaluateSettings:
        if self.every is not None and not (self.tasks or self.texts or self.prompts):
            raise ValueError("evaluate.every needs evaluate.tasks, evaluate.texts or evaluate.prompts")
        if len({text.name for text in self.texts}) < len(self.texts):
            raise ValueError("evaluate.texts has two files of the same name, by which scores are told apart")
        return self
