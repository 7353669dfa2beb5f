"""Several jobs with the same base in one process: one frozen pass, forward and backward, for all of them.

Every job runs the ordinary training loop in a thread of its own, with its own stream, optimizer, clipping,
schedule, events and checkpoints, which know nothing of the others. Only one thread runs at a time, and turns
change in two places. A job that comes to its forward pass waits until all have come to theirs; one pass over
their joint batch then serves them all. And when each has been back from its loss to its own logits, one
backward pass, from all logits' gradients, reaches all adapters. As a sample's state depends on no other
sample, the gradients are those of passes apart: those of the sum of the jobs' mean losses.

A job that ends, or fails, leaves; the others go on without it. (Joint passes for adapters: tLoRA,
arXiv 2602.07263.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from odeformer.depth import Grid
from odeformer.frozen import FrozenBase, Tuned
from odeformer.lora import Adapter
from odeformer.model import Output

_T = TypeVar("_T")


class JointPassError(RuntimeError):
    """A pass failed that several jobs share: each of them raises this, whichever of them is to blame."""


@dataclass(eq=False)
class _Part:
    """What one job puts into a pass, and gets out of it."""

    input_ids: Tensor
    depth: int | Grid | None
    adapter: Adapter
    of: _Pass | None = None
    output: Output | None = None
    """Its logits are a leaf, whose gradient is the job's own."""


@dataclass(eq=False)
class _Pass:
    """One pass over the joint batch of some parts."""

    parts: list[_Part]
    logits: Tensor | None = None
    awaited: set[_Part] = field(default_factory=set)
    """Those whose logits have no gradient yet."""
    is_done: bool = False
    error: Exception | None = None

    def run_backward(self) -> None:
        """From the logits' gradients, zero for a job that has left, into the adapters'."""
        assert self.logits is not None
        leaves = [part.output.logits for part in self.parts if part.output is not None]
        try:
            grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
            torch.autograd.backward(self.logits, torch.cat(grads))
        except Exception as error:  # noqa: BLE001 - every job of the pass raises it
            self.error = error
        # A part knows its pass: without this both, and all logits, would wait for the collector of cycles.
        self.parts, self.logits, self.is_done = [], None, True

    def check(self) -> None:
        """Raise what went wrong in it."""
        if self.error is not None:
            raise JointPassError(f"the joint pass failed: {self.error}") from self.error


class Together:
    """Where jobs meet. Each is given a :meth:`member` to train, and all are run by :meth:`run`."""

    def __init__(self, base: FrozenBase) -> None:
        if base.model.config.dropout_rate:
            raise ValueError("a base with dropout draws at random: its jobs cannot share passes")
        self._base = base
        self._turn = threading.Condition()
        self._there = 0
        self._asked_to_stop = False
        self._waiting: list[_Part] = []
        self._under_way: dict[int, _Part] = {}

    def run(self, jobs: Sequence[Callable[[], _T]]) -> list[_T | Exception]:
        """What each job returned or raised, in order.

        The passes are made by the calling thread: an allocator that keeps memory for each thread would keep
        a pass's for each.
        """
        self._there = len(jobs)
        with ThreadPoolExecutor(len(jobs), thread_name_prefix="job") as threads, self._turn:
            futures = [threads.submit(self._run, job) for job in jobs]
            try:
                while self._there:
                    if not self._make_a_pass():
                        self._turn.wait()
            except BaseException:  # Ctrl-C reaches this thread alone
                self._asked_to_stop = True
                raise
            finally:
                self._turn.notify_all()
        return [future.result() for future in futures]

    def _run(self, job: Callable[[], _T]) -> _T | Exception:
        with self._turn:
            try:
                return job()
            except Exception as error:  # noqa: BLE001 - of one job, not of the others
                return error
            finally:
                self._there -= 1
                left = self._under_way.pop(threading.get_ident(), None)
                if left is not None and left.of is not None:
                    left.of.awaited.discard(left)
                self._turn.notify_all()

    def member(self, adapter: Adapter) -> Member:
        """The model that a job with this adapter trains."""
        return Member(self._base, adapter, self)

    def forward(self, input_ids: Tensor, depth: int | Grid | None, adapter: Adapter) -> Output:
        """A job's share of the next pass; waits for the other jobs."""
        part = _Part(input_ids, depth, adapter)
        self._waiting.append(part)
        self._wait_until(lambda: part.of is not None)
        assert part.of is not None
        part.of.check()
        self._under_way[threading.get_ident()] = part
        assert part.output is not None
        return part.output

    def backward(self) -> None:
        """Bring a job's gradient from its logits, where its own backward pass ended, to its adapter."""
        part = self._under_way[threading.get_ident()]
        joint = part.of
        assert joint is not None
        joint.awaited.discard(part)
        self._wait_until(lambda: joint.is_done)
        del self._under_way[threading.get_ident()]
        joint.check()

    def _wait_until(self, so: Callable[[], bool]) -> None:
        self._turn.notify_all()
        self._turn.wait_for(lambda: so() or self._asked_to_stop)
        if self._asked_to_stop:
            raise InterruptedError("the process was told to stop")

    def _make_a_pass(self) -> bool:
        """A pass that everybody it needs has come for, if there is one."""
        joints = {part.of for part in self._under_way.values()}
        ready = [joint for joint in joints if joint is not None and not (joint.awaited or joint.is_done)]
        for joint in ready:
            joint.run_backward()
        if self._waiting and len(self._waiting) == self._there:
            self._pass_forward()
        elif not ready:
            return False
        self._turn.notify_all()
        return True

    def _pass_forward(self) -> None:
        """One pass for all parts that have the same grid and shape."""
        alike: dict[object, list[_Part]] = {}
        for part in self._waiting:
            alike.setdefault((part.depth, part.input_ids.shape), []).append(part)
        self._waiting = []
        for parts in alike.values():
            joint = _Pass(parts, awaited=set(parts))
            try:
                self._base.model.train()
                ids = torch.cat([part.input_ids for part in parts])
                output = self._base(ids, parts[0].depth, [part.adapter for part in parts])
                joint.logits = output.logits
                counts = output.evaluations[: len(parts[0].input_ids)]
                for part, logits in zip(parts, output.logits.detach().chunk(len(parts)), strict=True):
                    part.output = Output(logits.requires_grad_(), counts)
            except Exception as error:  # noqa: BLE001 - every job of the pass raises it
                joint.error = error
            for part in parts:
                part.of = joint


class Member(Tuned):
    """One job's adapter on the base that it shares."""

    def __init__(self, base: FrozenBase, adapter: Adapter, together: Together) -> None:
        super().__init__(base, adapter)
        self._together = together

    def forward(self, input_ids: Tensor, depth: int | Grid | None = None) -> Output:
        """As of a model of its own; with gradients it is a share of a joint pass."""
        if not torch.is_grad_enabled():
            return super().forward(input_ids, depth)
        return self._together.forward(input_ids, depth, self.adapter)

    def finish_backward(self) -> None:
        """To be called after every backward pass, before the gradients are used."""
        self._together.backward()
