"""Fine-tuning methods: the parameters that each trains, and the format they are saved in."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from cluster.finetuning.together import Member, Together
from cluster.tasks.task import Task
from odeformer import checkpoint
from odeformer.frozen import FrozenBase, Tuned
from odeformer.gradients import gradient_named
from odeformer.lora import Adapter
from odeformer.model import Odeformer
from odeformer.norms import vectors

if TYPE_CHECKING:
    from data.chat import ChatTemplate


@dataclass(frozen=True)
class Trained:
    """A trainable model, and how to save the result."""

    model: Any
    """An :class:`Odeformer` or a module with its interface. Parameters that require grad are trained."""
    files: str
    """Name of the subfolder of the job's folder that ``save`` writes: ``adapter`` or ``model``."""
    save: Callable[[dict[str, str], Path, ChatTemplate | None], None]
    """``save(base, folder, chat)``, where ``base`` has the name, version and digest of the base, and ``chat``
    the chat template of the training, if it had one."""
    finish_backward: Callable[[], None] = lambda: None
    """Called after each backward pass; joint passes use it to finish the gradient."""

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def full(model: Odeformer, tokenizer: Path) -> Trained:
    """Train all weights, saved as a checkpoint with the base's tokenizer and solver."""
    model.requires_grad_(True)
    solver = model.solver

    def save(base: dict[str, str], folder: Path, chat: ChatTemplate | None) -> None:
        config = None if chat is None else chat.config
        checkpoint.save(model.state_dict(), model.config, solver, tokenizer, folder, config)

    return Trained(model, "model", save)


def norms(model: Odeformer) -> Trained:
    """Train norm gains and biases; the matrices B_k and W(t) get no gradient."""
    model.requires_grad_(False)
    for parameter in vectors(model).values():
        parameter.requires_grad_(True)

    def save(base: dict[str, str], folder: Path, chat: ChatTemplate | None) -> None:
        checkpoint.save_norms(model, base, folder, None if chat is None else chat.text)

    return Trained(model, "adapter", save)


def lora(
    task: Task,
    model: Odeformer,
    depth: int,
    together: Together | None = None,
    parent: Adapter | None = None,
) -> Trained:
    """Train a low-rank adapter on a frozen base, whose W(t) needs no gradient and is generated only once.

    Args:
        depth: depth N of evaluation.
        together: the jobs that share their passes with this one, if any.
        parent: the adapter to begin from, which is also the reference; without one the base is.
    """
    adapter = Adapter(task.adapter, model.config) if parent is None else deepcopy(parent).requires_grad_(True)

    def save(base: dict[str, str], folder: Path, chat: ChatTemplate | None) -> None:
        checkpoint.save_adapter(adapter, base, folder, None if chat is None else chat.text)

    if together is not None:
        member: Member = together.member(adapter, parent)
        return Trained(member, "adapter", save, member.finish_backward)
    trained: nn.Module = model
    if gradient_named(task.train.gradient).regenerates_weights:
        model.requires_grad_(False)
        model.hypernetwork.adapter = adapter
    else:
        trained = Tuned(frozen(model, {depth, *task.train.depths}), adapter, parent)
    return Trained(trained, "adapter", save)


def frozen(model: Odeformer, depths: set[int]) -> FrozenBase:
    """A frozen base for adapters that run at these depths. For a single depth, its weight sets are freed."""
    base = FrozenBase(model)
    if len(depths) == 1:
        base.settle(*depths)
    return base
