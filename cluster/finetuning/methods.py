"""What each method trains, and how what it trained is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cluster.finetuning.together import Member, Together
from cluster.tasks.task import Task
from odeformer import checkpoint
from odeformer.frozen import FrozenBase, Tuned
from odeformer.gradients import gradient_named
from odeformer.lora import Adapter
from odeformer.model import Odeformer
from odeformer.norms import vectors


@dataclass(frozen=True)
class Trained:
    """What the training loop gets of a job."""

    model: Any
    """An :class:`Odeformer`, or what behaves as one. What requires grad is trained."""
    files: str
    """The folder, in the job's own, that :meth:`save` fills: ``adapter`` or ``model``."""
    save: Callable[[dict[str, str], Path], None]
    """``save(base, folder)``; ``base``: name, version and digest of the base."""
    finish_backward: Callable[[], None] = lambda: None

    @property
    def parameters(self) -> int:
        """How many are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def full(model: Odeformer, tokenizer: Path) -> Trained:
    """All weights. They are a checkpoint of their own, with the base's tokenizer and solver."""
    model.requires_grad_(True)
    solver = model.solver

    def save(base: dict[str, str], folder: Path) -> None:
        checkpoint.save(model.state_dict(), model.config, solver, tokenizer, folder)

    return Trained(model, "model", save)


def norms(model: Odeformer) -> Trained:
    """Norm gains and biases; of the matrices neither B_k nor W(t) gets a gradient."""
    model.requires_grad_(False)
    for parameter in vectors(model).values():
        parameter.requires_grad_(True)
    return Trained(model, "adapter", lambda base, folder: checkpoint.save_norms(model, base, folder))


def lora(task: Task, model: Odeformer, depth: int, together: Together | None = None) -> Trained:
    """A low-rank adapter on a base that is frozen: its W(t) needs no gradient, and is made only once.

    Args:
        depth: N at which it is scored.
        together: where the job's passes are shared with those of others.
    """
    adapter = Adapter(task.adapter, model.config)

    def save(base: dict[str, str], folder: Path) -> None:
        checkpoint.save_adapter(adapter, base, folder)

    if together is not None:
        member: Member = together.member(adapter)
        return Trained(member, "adapter", save, member.finish_backward)
    trained: nn.Module = model
    if gradient_named(task.train.gradient).regenerates_weights:
        model.requires_grad_(False)
        model.hypernetwork.adapter = adapter
    else:
        trained = Tuned(frozen(model, {depth, *task.train.depths}), adapter)
    return Trained(trained, "adapter", save)


def frozen(model: Odeformer, depths: set[int]) -> FrozenBase:
    """The base of adapters that run at these depths. At one alone, its weight sets are let go of."""
    base = FrozenBase(model)
    if len(depths) == 1:
        base.settle(*depths)
    return base
