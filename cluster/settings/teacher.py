"""The trained model that a student learns from."""

from __future__ import annotations

from pydantic import Field

from cluster.names import absolute_name
from odeformer.section import Layers, Section


class TeacherSettings(Section):
    """A trained model whose predictions are training targets beside the tokens (knowledge distillation)."""

    model: str
    """Teacher: ``models:/<name>@<alias>`` or a checkpoint folder. The shards must have been built with its
    tokenizer."""
    depth: Layers | None = None
    """Depth N at which the teacher predicts. Default: its model depth."""
    weight: float = Field(default=0.5, gt=0, le=1)
    """Weight of the cross-entropy against the teacher's distribution; that of the tokens has the rest."""

    def absolute(self) -> TeacherSettings:
        """A copy with an absolute local path."""
        return self.model_copy(update={"model": absolute_name(self.model)})
