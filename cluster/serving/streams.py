"""Requests in the engine's thread as asynchronous streams of text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from torch import Tensor

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


@dataclass(eq=False)
class Stream:
    """A request and the queue of what the engine says of it."""

    request: Request
    text: ContinuedText
    top: int | None
    """How many of the most likely tokens to report; None for no scores at all."""
    scores_prompt: bool = False
    """Whether to score the prompt's tokens, too."""
    new_tokens: int = 0
    prompt_scores: list[TokenScore | None] = field(default_factory=list)
    """The scores of the prompt's tokens; the first has none."""
    _said: asyncio.Queue[tuple[int, TokenScore | None] | Finish | Exception] = field(
        default_factory=asyncio.Queue
    )

    def submit(self, engine: Engine) -> None:
        """Submit the request; what the engine says of it waits for :meth:`pieces`.

        Raises:
            ValueError, OverflowError, RuntimeError: see :meth:`Engine.submit`.
        """
        loop = asyncio.get_running_loop()

        def put(item: tuple[int, TokenScore | None] | Finish | Exception) -> None:
            loop.call_soon_threadsafe(self._said.put_nowait, item)

        self.request.on_token = lambda token, logits: put((token, self._score(token, logits)))
        self.request.on_end = put
        if self.scores_prompt:
            self.request.on_prompt = self._score_prompt
        engine.submit(self.request)

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
        if self.top is None:
            return None
        logprobs = logits.float().log_softmax(dim=-1)
        best = logprobs.topk(self.top)
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return TokenScore(token, float(logprobs[token]), top)

    def _score_prompt(self, logits: Tensor) -> None:
        following = self.request.prompt[1:]
        self.prompt_scores = [
            None, *(self._score(token, row) for token, row in zip(following, logits, strict=False))
        ]  # fmt: skip
