"""A scheduler that decodes many requests at once, each with its own depth, adapter and sampling.

Requests of one depth N are decoded together (:mod:`odeformer.inference.rows`); depths take turns. A prompt is
read in parts between two steps, so that a long one does not hold up the streams. A request that names
milliseconds per token instead of a depth gets the largest depth that keeps them for itself, for all that are
running, and for those that wait: as load grows, new requests get less depth before anyone has to wait.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Literal

import torch
from torch import Tensor

from odeformer.field.rows import RowField
from odeformer.inference.rows import DepthRows, Row
from odeformer.inference.sampling import Sampling
from odeformer.inference.step_times import SAMPLING, StepTimes, measured_lines
from odeformer.lora import Adapter
from odeformer.model import Odeformer

PROMPT_TOKENS_AT_ONCE = 128
"""Tokens of a waiting prompt that are read between two steps."""

Finish = Literal["stop", "length"]


@dataclass(eq=False)
class Request:
    """A prompt to continue."""

    prompt: list[int]
    """Token ids, at least one."""
    on_token: Callable[[int, Tensor], None] = lambda token, logits: None
    """Called in the engine's thread with each new token and the logits [vocabulary] it was drawn from."""
    on_end: Callable[[Finish | Exception], None] = lambda end: None
    """Called once: with the reason for the end, or the error."""
    on_prompt: Callable[[Tensor], None] | None = None
    """Called before the first token, for each part of the prompt that is read, with the logits after each of
    its tokens, [tokens, vocabulary]."""
    max_new_tokens: int | None = None
    """Largest number of new tokens; None for as many as fit into the context."""
    depth: int | None = None
    """N; None for the largest within ``latency_ms``, or the model depth without it."""
    latency_ms: float | None = None
    """Milliseconds per token to keep, by less depth if need be."""
    adapter: Adapter | None = None
    sampling: Sampling = SAMPLING
    seed: int = 0
    stop_id: int | None = None
    """The token that ends the text; it is not passed on."""
    cancelled: bool = False
    """Set from any thread to end the request without a further call."""

    served_at: int | None = None
    """The depth at which it runs, once that is decided."""


@dataclass(eq=False)
class _Running:
    """A request whose depth is decided."""

    request: Request
    row: Row
    generator: torch.Generator


class Engine:
    """Decodes requests for one base model; :meth:`run` is the body of a thread of its own.

    Args:
        model: the base, without an adapter.
        depths: the depths N that are offered.
        most_rows: largest number of requests that are decoded together at one depth.
        most_waiting: largest number of requests that wait.
        capacity: largest number of tokens of prompt and continuation; the context length when not given.
    """

    def __init__(
        self,
        model: Odeformer,
        depths: Sequence[int],
        *,
        most_rows: int = 16,
        most_waiting: int = 256,
        capacity: int | None = None,
    ) -> None:
        context = model.config.context_length
        assert context is not None
        self.capacity = min(capacity or context, context)
        self.model_depth, self.depths = model.config.depth, tuple(sorted(set(depths)))
        self._batches = {depth: DepthRows(model, depth, most_rows, self.capacity) for depth in self.depths}
        self._most_rows, self._most_waiting = most_rows, most_waiting
        self._waiting: deque[Request] = deque()
        self._reading: tuple[_Running, RowField] | None = None
        self._running: dict[int, list[_Running]] = {depth: [] for depth in self.depths}
        self._changed, self._ending = Condition(), False
        self._failed: RuntimeError | None = None
        self.times = StepTimes(measured_lines(self._batches, min(8, most_rows)))

    @property
    def cache_bytes(self) -> float:
        """Memory of the keys and values that are stored now."""
        stored = {depth: sum(one.row.read for one in [*rows]) for depth, rows in self._running.items()}
        if (reading := self._reading) is not None:
            row, depth = reading[0].row, reading[0].request.served_at
            stored[depth or 0] += row.read
        return sum(tokens * self._batches[depth].bytes_per_token for depth, tokens in stored.items())

    @property
    def cache_bound_bytes(self) -> float:
        """Memory of all keys and values when every place is taken: one more is for a prompt that is read."""
        places = (self._most_rows + 1) * self.capacity
        return sum(places * batch.bytes_per_token for batch in self._batches.values())

    @property
    def waiting(self) -> int:
        """Number of requests that have no token yet."""
        return len(self._waiting) + (self._reading is not None)

    @property
    def running(self) -> dict[int, int]:
        """Number of requests in the batch of each depth."""
        return {depth: len(rows) for depth, rows in self._running.items()}

    def check(self, request: Request) -> None:
        """Refuse what cannot be served, and give a request without ``max_new_tokens`` as many as fit.

        Raises:
            ValueError: for an empty or too long prompt, ids outside the vocabulary, or a depth that is not
                offered.
        """
        if request.depth is not None and request.depth not in self._batches:
            offered = ", ".join(map(str, self.depths))
            raise ValueError(f"depth {request.depth} is not offered: choose one of {offered}")
        self._batches[self.depths[0]].at.check_prompt(request.prompt)
        asked, room = request.max_new_tokens, self.capacity - len(request.prompt)
        asked = 1 if asked is None else asked
        if asked > room:
            raise ValueError(
                f"{len(request.prompt)} prompt tokens and {asked} new ones are more than the context of "
                f"{self.capacity}"
            )
        request.max_new_tokens = room if request.max_new_tokens is None else asked

    def submit(self, request: Request) -> None:
        """Take a request, from any thread.

        Raises:
            ValueError: see :meth:`check`.
            OverflowError: if too many are waiting.
            RuntimeError: if the engine has ended with an error.
        """
        self.check(request)
        with self._changed:
            if self._failed is not None:
                raise self._failed
            self._waiting = deque(waiting for waiting in self._waiting if not waiting.cancelled)
            if len(self._waiting) >= self._most_waiting:
                raise OverflowError(f"{self._most_waiting} requests are waiting: try again later")
            self._waiting.append(request)
            self._changed.notify()

    def run(self) -> None:
        """Decode until :meth:`end` is called and nothing is left. An error ends all requests with it."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._ending or self._has_work())
                    if not self._has_work():
                        # Whoever chose this engine before it was told to end hears of it.
                        self._failed = RuntimeError("this version has just been replaced: ask again")
                        return
                self.step()
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """End all requests, also those that are still to come."""
        reason = RuntimeError(f"the engine has ended: {error}")
        with self._changed:
            self._failed = reason
            requests, self._waiting = [*self._waiting], deque()
        if self._reading is not None:
            requests.append(self._reading[0].request)
        for request in [*requests, *(one.request for rows in self._running.values() for one in rows)]:
            request.on_end(reason)

    def end(self) -> None:
        """Let :meth:`run` return when all requests have ended."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def step(self) -> None:
        """Read a part of the next prompt, then draw a token for every running request."""
        started = time.perf_counter()
        self._drop_cancelled()
        self._begin_next()
        if self._reading is not None:
            self._read_on(*self._reading)
        rows = self.running
        for depth in (depth for depth, count in rows.items() if count):
            self._decode(depth)
        if any(rows.values()):
            self.times.observe(rows, 1e3 * (time.perf_counter() - started))

    def _has_work(self) -> bool:
        return bool(self._waiting) or self._reading is not None or any(self._running.values())

    def _drop_cancelled(self) -> None:
        if self._reading is not None and self._reading[0].request.cancelled:
            self._reading = None
        for depth, running in self._running.items():
            for one in [one for one in running if one.request.cancelled]:
                self._leave(depth, one)

    def _begin_next(self) -> None:
        """Decide the depth of the first waiting request that there is room for."""
        with self._changed:
            self._waiting = deque(request for request in self._waiting if not request.cancelled)
            for request in self._waiting if self._reading is None else ():
                depth = self.choose_depth(request)
                if depth is not None and len(self._running[depth]) < self._most_rows:
                    break
            else:
                return
            self._waiting.remove(request)
        request.served_at = depth
        generator = torch.Generator().manual_seed(request.seed)
        one = _Running(request, Row([*request.prompt], request.adapter), generator)
        self._reading = one, self._batches[depth].start()

    def choose_depth(self, request: Request) -> int | None:
        """The depth for a request: its own, or by its budget; None if it has to wait for others to end.

        The largest depth at which all that wait can join, and no budget that is kept now is broken. If there
        is none, the least, which waits where it would break the budget of a request that is running.
        """
        if request.depth is not None:
            return request.depth
        if request.latency_ms is None:
            return self.model_depth if self.model_depth in self._batches else self.depths[-1]
        least, rows = self.depths[0], self.running
        others = [one.request.latency_ms for running in self._running.values() for one in running]
        now = self.times.predicted(rows)
        kept = [ms for ms in others if ms is not None and ms >= now]
        budget = min([request.latency_ms, *kept])
        joining = max(1, sum(waiting.depth is None for waiting in self._waiting))
        for depth in reversed(self.depths):
            joined = {**rows, depth: min(rows[depth] + joining, self._most_rows)}
            if rows[depth] < self._most_rows and self.times.predicted(joined) <= budget:
                return depth
        alone = {**rows, least: rows[least] + 1}
        return least if self.times.predicted(alone) <= min(kept, default=math.inf) else None

    def _read_on(self, one: _Running, reading: RowField) -> None:
        request, depth = one.request, one.request.served_at
        assert depth is not None
        batch = self._batches[depth]
        try:
            logits = batch.read_prompt(one.row, reading, PROMPT_TOKENS_AT_ONCE)
            if request.on_prompt is not None:
                request.on_prompt(logits)
            if one.row.read < len(one.row.ids):
                return
        except (RuntimeError, ArithmeticError) as error:  # this request's alone: others go on
            self._reading = None
            request.on_end(error)
            return
        self._reading = None
        if request.max_new_tokens == 0:
            request.on_end("length")
        elif self._draw(one, logits[-1].float()):
            batch.join(one.row, reading)
            self._running[depth].append(one)

    def _decode(self, depth: int) -> None:
        batch = self._batches[depth]
        logits = batch.step().float()
        for one, row_logits in zip(
            [self._of(depth, row) for row in batch.rows], logits.unbind(0), strict=True
        ):
            if not self._draw(one, row_logits):
                self._leave(depth, one)

    def _draw(self, one: _Running, logits: Tensor) -> bool:
        """Draw the next token; whether the request goes on."""
        request, row = one.request, one.row
        if not logits.isfinite().all():
            request.on_end(FloatingPointError(f"a logit at depth {request.served_at} is not finite"))
            return False
        try:
            token = request.sampling.draw(logits.cpu(), one.generator)
        except (RuntimeError, ArithmeticError) as error:  # this request's alone
            request.on_end(error)
            return False
        if token == request.stop_id:
            request.on_end("stop")
            return False
        row.ids.append(token)
        request.on_token(token, logits)
        assert request.max_new_tokens is not None
        if len(row.ids) - len(request.prompt) >= request.max_new_tokens:
            request.on_end("length")
            return False
        return not request.cancelled

    def _of(self, depth: int, row: Row) -> _Running:
        return next(one for one in self._running[depth] if one.row is row)

    def _leave(self, depth: int, one: _Running) -> None:
        self._batches[depth].leave(one.row)
        self._running[depth].remove(one)
