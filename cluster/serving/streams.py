"""Requests in the engine's thread as asynchronous streams of text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cluster.serving.metrics import Metrics
from odeformer.inference.engine import Engine, Finish, Request
from odeformer.inference.generate import ContinuedText


@dataclass(frozen=True)
class TokenScore:
    """A token's log-probability, in nats, and the most likely tokens at its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """New text of a stream."""

    text: str
    scores: tuple[TokenScore, ...] = ()
    """The scores of the tokens since the last piece, if they were asked for."""
    finish: Finish | None = None
    """The reason for the end, in the last piece."""


Said = tuple[int, TokenScore | None] | Finish | Exception
"""What the engine says of a request: a new token, the reason for the end, or an error."""


@dataclass(eq=False)
class Stream:
    """A request and the queue of what the engine says of it."""

    request: Request
    text: ContinuedText
    top: int | None
    """How many of the most likely tokens to report; None for no scores at all."""
    metrics: Metrics
    scores_prompt: bool = False
    """Whether to score the prompt's tokens, too."""
    new_tokens: int = 0
    prompt_scores: list[TokenScore | None] = field(default_factory=list)
    """The scores of the prompt's tokens; the first has none."""
    _said: asyncio.Queue[Said] = field(default_factory=asyncio.Queue)
    _last_token: float | None = None

    def submit(self, engine: Engine) -> None:
        """Submit the request; what the engine says of it waits for :meth:`pieces`.

        Raises:
            ValueError, OverflowError, RuntimeError: see :meth:`Engine.submit`.
        """
        loop = asyncio.get_running_loop()

        def put(item: Said) -> None:
            loop.call_soon_threadsafe(self._hear, item)

        self.request.on_token = lambda token, logits: put((token, self._score(token, logits)))
        self.request.on_end = put
        if self.scores_prompt:
            self.request.on_prompt = self._score_prompt
        engine.submit(self.request)

    def _hear(self, item: Said) -> None:
        if isinstance(item, tuple):
            # Here, where a slow client does not count.
            now, last, depth = time.perf_counter(), self._last_token, self.request.served_at
            assert depth is not None
            milliseconds = None if last is None else 1e3 * (now - last)
            self.metrics.token(depth, milliseconds, self.request.latency_ms)
            self._last_token = now
        self._said.put_nowait(item)

    def cancel(self) -> None:
        """Let the engine drop the request."""
        self.request.cancelled = True

    async def pieces(self) -> AsyncIterator[Piece]:
        """The text of an open stream as it comes. Ending early cancels the request.

        Raises:
            RuntimeError, ArithmeticError: what the engine says of this request.
        """
        scores: list[TokenScore] = []
        try:
            while not isinstance(item := await self._said.get(), str):
                if isinstance(item, Exception):
                    raise item
                token, score = item
                self.new_tokens += 1
                scores += [score] if score is not None else []
                if (new := self.text.add(token)) or scores or self.text.stopped:
                    yield Piece(new, tuple(scores), "stop" if self.text.stopped else None)
                    scores = []
                if self.text.stopped:
                    return
            yield Piece(self.text.rest(), finish="stop" if self.text.stopped else item)
        finally:
            self.cancel()

    def _score(self, token: int, logits: Tensor) -> TokenScore | None:
        return None if self.top is None else self._scores([token], logits[None])[0]

    def _score_prompt(self, logits: Tensor) -> None:
        """Score the tokens that follow those of the part that was read; the prompt's first has no score."""
        self.prompt_scores = self.prompt_scores or [None]
        begun = len(self.prompt_scores)
        self.prompt_scores += self._scores(self.request.prompt[begun : begun + len(logits)], logits)

    def _scores(self, tokens: list[int], logits: Tensor) -> list[TokenScore]:
        """The scores of tokens by the logits [tokens, vocabulary] before them."""
        logprobs = logits[: len(tokens)].float().log_softmax(dim=-1)
        best = logprobs.topk(self.top or 0, dim=-1)
        own = logprobs.gather(1, torch.tensor(tokens, dtype=torch.long, device=logits.device)[:, None])[:, 0]
        lists = (own.tolist(), best.indices.tolist(), best.values.tolist())
        return [
            TokenScore(token, logprob, tuple(zip(ids, logprobs_of_ids, strict=True)))
            for token, logprob, ids, logprobs_of_ids in zip(tokens, *lists, strict=True)
        ]
