"""Silent data corruption: a micro-batch is run twice, and a bit that differs stops the run before its update.

A processor or memory that computes wrongly without an error spoils weights unnoticed, and every commit after
that. The same micro-batch with the same random numbers gives the same bits, so a second run that does not
tells of it. Only the micro-batch that is repeated is checked, until its gradients reach DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cluster.checkpoints.durable import together

Forward = Callable[[Any], tuple[Tensor, Tensor]]
NAMED = 3
"""How many parameters a message names."""


class CorruptionError(RuntimeError):
    """A micro-batch gave other bits the second time; the message names the workers."""


class First(NamedTuple):
    """What is noted of a pass that will be repeated."""

    digests: dict[str, Tensor]
    """Digest of each gradient, once the pass is over."""
    hooks: list[Any]
    random: Tensor
    random_of_device: Tensor | None


class Replay:
    """Repeats one micro-batch of every ``every``-th step; which one, rotates.

    Args:
        engine: the DeepSpeed engine, at ZeRO stage 0 to 2, where every worker has all gradients.
        autocast: the data type of the engine's matmuls; ``None`` for float32.
    """

    def __init__(self, engine: Any, every: int, autocast: torch.dtype | None) -> None:
        self._engine, self._every, self._autocast = engine, every, autocast
        self._device = torch.device(engine.device)
        self._parameters = {
            name: parameter for name, parameter in engine.module.named_parameters() if parameter.requires_grad
        }
        self._problems: list[str] = []

    def chosen(self, step: int, passes: int) -> int | None:
        """The number of the pass of a step that is repeated; ``None`` if none is."""
        return step // self._every % passes if step % self._every == 0 else None

    def begin(self) -> First:
        """Take note of the random numbers before a pass, and of its gradients as they come."""
        digests: dict[str, Tensor] = {}
        hooks = [
            parameter.register_hook(_noting(digests, name)) for name, parameter in self._parameters.items()
        ]
        of_device = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return First(digests, hooks, torch.get_rng_state(), of_device)

    def compare(self, first: First, forward: Forward, factor: Tensor) -> None:
        """Run a pass again after its backward pass, and note the gradients that differ.

        Args:
            forward: runs the pass's forward pass; the loss of each sample, [samples], comes second.
            factor: by which their sum was multiplied for the backward pass.
        """
        for hook in first.hooks:
            hook.remove()
        with torch.random.fork_rng([] if first.random_of_device is None else [self._device]):
            torch.set_rng_state(first.random)
            if first.random_of_device is not None:
                torch.cuda.set_rng_state(first.random_of_device, self._device)
            second = self._again(forward, factor)
        if first.digests.keys() != second.keys():
            raise AssertionError("a pass has other gradients the second time")
        names = list(second)
        differ = torch.stack([first.digests[name] != second[name] for name in names])
        self._problems += [name for name, is_other in zip(names, differ.tolist(), strict=True) if is_other]

    def _again(self, forward: Forward, factor: Tensor) -> dict[str, Tensor]:
        """Digests of the gradients of a second pass, which DeepSpeed does not see."""
        engine = self._engine
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            _, per_sample = forward(engine.module)
        # As in the engine's backward(), whose rounding must be repeated as well.
        loss = per_sample.sum() * factor / engine.gradient_accumulation_steps()
        gradients = torch.autograd.grad(loss, list(self._parameters.values()), allow_unused=True)
        return {
            name: digest(gradient)
            for name, gradient in zip(self._parameters, gradients, strict=True)
            if gradient is not None
        }

    def check(self, step: int) -> None:
        """Compare what all ranks have noted.

        Raises:
            CorruptionError: on all ranks, when any of them has noted a difference.
        """
        problems, self._problems = self._problems, []
        found = {rank: names for rank, names in enumerate(together(lambda: problems)) if names}
        if found:
            where = "; ".join(f"worker {rank}: gradient of {_few(names)}" for rank, names in found.items())
            raise CorruptionError(
                f"a micro-batch of step {step} gave other bits when it was run again ({where}): a processor "
                "or memory computes wrongly, or a kernel is not deterministic; the step was not applied. "
                "Take the node out, and resume"
            )


def digest(tensor: Tensor) -> Tensor:
    """A number, int64 on the tensor's device, that changes with any single bit of a float32 tensor."""
    return tensor.detach().contiguous().view(torch.int32).sum(dtype=torch.int64)


def _noting(digests: dict[str, Tensor], name: str) -> Callable[[Tensor], None]:
    def note(gradient: Tensor) -> None:
        digests[name] = digest(gradient)

    return note


def _few(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
