"""Joint training of several adapters on one base: one forward and one backward pass of the base for all jobs.

Every job runs the ordinary training loop in its own thread, with its own stream, optimizer, clipping,
schedule, events and checkpoints, unaware of the others. Only one thread runs at a time, and threads meet in
two places. A job that reaches its forward pass waits until all jobs have reached theirs; one pass over their
joint batch then serves them all. Once every job has back-propagated its loss to its own logits, one backward
pass from the gradients of all logits reaches all adapters. Since a sample's state depends on no other sample,
the gradients equal those of separate passes: those of the sum of the jobs' mean losses.

If a job ends or fails, the others continue. (Joint passes for adapters: tLoRA, arXiv 2602.07263.)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from odeformer.field.cached import CachedField
from odeformer.frozen import FrozenBase, Tuned
from odeformer.lora import Adapter
from odeformer.model import Output

_T = TypeVar("_T")


class JointPassError(RuntimeError):
    """A joint pass failed. Every job in it raises this, whichever job caused it."""


@dataclass(eq=False)
class _Part:
    """Input of a job to a joint pass, and its output."""

    input_ids: Tensor
    depth: int | None
    adapter: Adapter
    documents: Tensor | None = None
    joint: _Pass | None = None
    output: Output | None = None
    """Output whose logits are a leaf of the job's own autograd graph."""


@dataclass(eq=False)
class _Pass:
    """A forward and a backward pass over the joint batch of some parts."""

    parts: list[_Part]
    logits: Tensor | None = None
    awaited: set[_Part] = field(default_factory=set)
    """Parts whose logits have no gradient yet."""
    is_done: bool = False
    error: Exception | None = None

    def run_backward(self) -> None:
        """Back-propagate the logits' gradients to the adapters, with zeros for a job that has left."""
        assert self.logits is not None
        leaves = [part.output.logits for part in self.parts if part.output is not None]
        try:
            grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
            torch.autograd.backward(self.logits, torch.cat(grads))
        except Exception as error:  # noqa: BLE001 - every job of the pass raises it
            self.error = error
        # Parts refer to their pass: breaking the cycle frees all logits now, without the garbage collector.
        self.parts, self.logits, self.is_done = [], None, True

    def check(self) -> None:
        """Raise the error of the pass, if there was one."""
        if self.error is not None:
            raise JointPassError(f"the joint pass failed: {self.error}") from self.error


class Together:
    """Coordinator of joint passes. Each job trains a :meth:`member`, and :meth:`run` runs all jobs."""

    def __init__(self, base: FrozenBase) -> None:
        if base.model.config.dropout_rate:
            raise ValueError("jobs cannot share passes of a base with dropout, which is random")
        self._base = base
        self._turn = threading.Condition()
        self._jobs = 0
        self._is_stopping = False
        self._waiting: list[_Part] = []
        self._part_of_thread: dict[int, _Part] = {}

    def run(self, jobs: Sequence[Callable[[], _T]]) -> list[_T | Exception]:
        """Run all jobs; what each returned or raised, in order.

        The calling thread makes all passes, because an allocator with a cache per thread would keep the
        memory of a pass for each thread.
        """
        self._jobs = len(jobs)
        with ThreadPoolExecutor(len(jobs), thread_name_prefix="job") as threads, self._turn:
            futures = [threads.submit(self._run, job) for job in jobs]
            try:
                while self._jobs:
                    if not self._make_a_pass():
                        self._turn.wait()
            except BaseException:  # Ctrl-C reaches this thread only
                self._is_stopping = True
                raise
            finally:
                self._turn.notify_all()
        return [future.result() for future in futures]

    def _run(self, job: Callable[[], _T]) -> _T | Exception:
        with self._turn:
            try:
                return job()
            except Exception as error:  # noqa: BLE001 - one job's error must not end the others
                return error
            finally:
                self._jobs -= 1
                part = self._part_of_thread.pop(threading.get_ident(), None)
                if part is not None and part.joint is not None:
                    part.joint.awaited.discard(part)
                self._turn.notify_all()

    def member(self, adapter: Adapter, reference: Adapter | None = None) -> Member:
        """The model that a job with this adapter trains, and what it is compared with."""
        return Member(self._base, adapter, self, reference)

    def forward(
        self, input_ids: Tensor, depth: int | None, adapter: Adapter, documents: Tensor | None = None
    ) -> Output:
        """A job's part of the next joint forward pass; blocks until the other jobs are ready."""
        part = _Part(input_ids, depth, adapter, documents)
        self._waiting.append(part)
        self._wait_until(lambda: part.joint is not None)
        assert part.joint is not None
        part.joint.check()
        self._part_of_thread[threading.get_ident()] = part
        assert part.output is not None
        return part.output

    def backward(self) -> None:
        """Back-propagate from a job's logits, where its own backward pass ended, to its adapter."""
        part = self._part_of_thread[threading.get_ident()]
        joint = part.joint
        assert joint is not None
        joint.awaited.discard(part)
        self._wait_until(lambda: joint.is_done)
        del self._part_of_thread[threading.get_ident()]
        joint.check()

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        self._turn.notify_all()
        self._turn.wait_for(lambda: condition() or self._is_stopping)
        if self._is_stopping:
            raise InterruptedError("the process was told to stop")

    def _make_a_pass(self) -> bool:
        """Run the passes whose jobs are all ready; whether there were any.

        A backward pass is ready once each of its jobs has a gradient for its logits or has left. A forward
        pass is ready only when every running job waits for one, so that the jobs stay in step.
        """
        joints = {part.joint for part in self._part_of_thread.values()}
        ready = [joint for joint in joints if joint is not None and not (joint.awaited or joint.is_done)]
        for joint in ready:
            joint.run_backward()
        if self._waiting and len(self._waiting) == self._jobs:
            self._pass_forward()
        elif not ready:
            return False
        self._turn.notify_all()
        return True

    def _pass_forward(self) -> None:
        """Run a forward pass for all waiting parts of the same depth and shape, with or without documents."""
        alike: dict[object, list[_Part]] = {}
        for part in self._waiting:
            key = (part.depth, part.input_ids.shape, part.documents is None)
            alike.setdefault(key, []).append(part)
        self._waiting = []

        for parts in alike.values():
            joint = _Pass(parts, awaited=set(parts))
            try:
                self._base.model.train()
                ids = torch.cat([part.input_ids for part in parts])
                separate = [part.documents for part in parts if part.documents is not None]
                documents = torch.cat(separate) if separate else None
                adapters = [part.adapter for part in parts]
                output = self._base(ids, parts[0].depth, adapters, documents=documents)
                joint.logits = output.logits
                for part, logits in zip(parts, output.logits.detach().chunk(len(parts)), strict=True):
                    part.output = Output(logits.requires_grad_(), output.evaluations)
            except Exception as error:  # noqa: BLE001 - every job of the pass raises it
                joint.error = error
            for part in parts:
                part.joint = joint


class Member(Tuned):
    """A job's model: its adapter on the shared base."""

    def __init__(
        self, base: FrozenBase, adapter: Adapter, together: Together, reference: Adapter | None
    ) -> None:
        super().__init__(base, adapter, reference)
        self._together = together

    def forward(
        self,
        input_ids: Tensor,
        depth: int | None = None,
        past: CachedField | None = None,
        documents: Tensor | None = None,
        of_reference: bool = False,
    ) -> Output:
        """The adapted model's output; with gradients enabled, computed in a joint pass."""
        if not torch.is_grad_enabled():
            return super().forward(input_ids, depth, past, documents, of_reference)
        return self._together.forward(input_ids, depth, self.adapter, documents)

    def finish_backward(self) -> None:
        """Finish a backward pass; must be called before the gradients are used."""
        self._together.backward()
