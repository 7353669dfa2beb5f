"""The teacher of a student: a frozen model whose predictions are targets beside the tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cluster import registry
from cluster.settings import PretrainSettings
from cluster.training.loss import predictions
from data.elastic import Batch
from odeformer.config import ModelConfig
from odeformer.model import Odeformer, distillation_losses


class TeacherShape(NamedTuple):
    """What determines the cost of a run's teacher."""

    model: ModelConfig
    solver: str
    """Solver that it was trained with."""
    depth: int
    """Depth N at which it predicts."""


class Teacher:
    """A frozen model at one depth, whole on each worker.

    Args:
        model: the model, which is moved to the device of the samples that it sees.
        depth: number of cells N at which it predicts.
        weight: weight of its term in the student's loss, in (0, 1].
        bf16: whether its matmuls run in bfloat16.
    """

    def __init__(self, model: Odeformer, depth: int, weight: float, bf16: bool = False) -> None:
        self.model = model.eval().requires_grad_(False)
        self.depth, self.weight, self.bf16 = depth, weight, bf16

    @torch.no_grad()
    def logits(self, part: Batch, end_of_text: int | None) -> Tensor:
        """Logits [samples, ..., tokens, vocabulary] for a micro-batch, with the student's attention mask."""
        self.model.to(part.tokens.device)
        with torch.autocast(part.tokens.device.type, torch.bfloat16, enabled=self.bf16):
            return predictions(self.model, part.tokens, self.depth, end_of_text, part.documents)

    def mix(self, per_token: Tensor, logits: Tensor, teacher: Tensor) -> Tensor:
        """Losses (1 − weight) · per_token + weight · H(teacher, student) in nats, [samples, ..., tokens].

        The weighted sum of Hinton, Vinyals & Dean 2015 (arXiv 1503.02531) of hard and soft targets,
        at temperature 1.

        Args:
            per_token: the student's cross-entropy with the tokens, [samples, ..., tokens].
            logits: the student's, [samples, ..., tokens, vocabulary].
            teacher: the teacher's, of the same shape.
        """
        return torch.lerp(per_token, distillation_losses(logits, teacher), self.weight)


def load_teacher(settings: PretrainSettings) -> Teacher | None:
    """The teacher of a resolved run, on the CPU; ``None`` for a run without one.

    Raises:
        ValueError, FileNotFoundError: when it cannot be loaded.
    """
    chosen = settings.teacher
    if chosen is None:
        return None
    model: Any = registry.load(chosen.model, settings.tracking.uri).model
    return Teacher(
        model, chosen.depth or model.config.depth, chosen.weight, settings.train.precision == "bf16"
    )
