"""Answers in the form of OpenAI's ``openai`` package."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from typing import Any

from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion_choice import Logprobs
from pydantic import BaseModel

from cluster.serving.server import Choice
from cluster.serving.streams import Piece, Stream, TokenScore


class Form(ABC):
    """How the texts of a request's choices are put into answers."""

    prefix = ""

    def __init__(self, choice: Choice, streams: list[Stream], body: Any) -> None:
        self.choice, self.streams, self.body = choice, streams, body
        self.id, self.created, self.started = (
            f"{self.prefix}-{uuid.uuid4().hex}",
            int(time.time()),
            time.perf_counter(),
        )

    def head(self) -> dict[str, Any]:
        """The fields of every answer and chunk."""
        return {"id": self.id, "created": self.created, "model": self.body.model}

    def about(self) -> dict[str, object]:
        """What an answer says of its making: versions, depth, milliseconds per token."""
        adapter, served = self.choice.adapter, self.choice.served
        tokens = sum(stream.new_tokens for stream in self.streams)
        seconds = time.perf_counter() - self.started
        return {
            "base": served.label,
            "adapter": self.choice.version.uri if adapter is not None and self.choice.version else None,
            "depth": self.streams[0].request.served_at,
            "depths": [stream.request.served_at for stream in self.streams],
            "tokens": tokens,
            "milliseconds_per_token": 1e3 * seconds * len(self.streams) / tokens if tokens else None,
        }

    def usage(self) -> CompletionUsage:
        """Numbers of tokens of prompts and continuations."""
        copies = self.body.n or 1
        prompt = sum(len(stream.request.prompt) for stream in self.streams[::copies])
        new = sum(stream.new_tokens for stream in self.streams)
        return CompletionUsage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)

    def token(self, token: int) -> str:
        """A token's own text."""
        return str(self.choice.served.tokenizer.decode([token], skip_special_tokens=False))

    @abstractmethod
    def chunk(self, index: int, piece: Piece, is_first: bool) -> dict[str, object]:
        """The event for a new piece of a choice's text."""

    @abstractmethod
    def whole(self, texts: list[str], scores: list[list[TokenScore]], ends: list[str]) -> BaseModel:
        """The answer with the texts, scores and reasons for the end of all choices."""


class CompletionForm(Form):
    """Answers of ``/v1/completions``."""

    prefix = "cmpl"

    def __init__(self, choice: Choice, streams: list[Stream], body: Any) -> None:
        super().__init__(choice, streams, body)
        decode = choice.served.tokenizer.decode
        self._offset = [0 if body.echo else len(decode(stream.request.prompt)) for stream in streams]

    def _logprobs(self, scores: list[TokenScore | None], tokens: list[int], offset: int) -> Logprobs | None:
        if self.body.logprobs is None:
            return None
        texts, offsets = [self.token(token) for token in tokens], []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return Logprobs.model_construct(
            tokens=texts,
            token_logprobs=[None if score is None else score.logprob for score in scores],
            top_logprobs=[
                None if score is None else {self.token(token): logprob for token, logprob in score.top}
                for score in scores
            ],
            text_offset=offsets,
        )

    def chunk(self, index: int, piece: Piece, is_first: bool) -> dict[str, object]:
        scores: list[TokenScore | None] = [*piece.scores]
        logprobs = self._logprobs(scores, [score.token for score in piece.scores], self._offset[index])
        self._offset[index] += sum(len(self.token(score.token)) for score in piece.scores)
        choice = CompletionChoice.model_construct(
            index=index, text=piece.text, finish_reason=piece.finish, logprobs=logprobs
        )
        return Completion.model_construct(
            **self.head(), object="text_completion", choices=[choice]
        ).model_dump()

    def whole(self, texts: list[str], scores: list[list[TokenScore]], ends: list[str]) -> BaseModel:
        choices = []
        for index, stream in enumerate(self.streams):
            text, of_tokens = texts[index], [score.token for score in scores[index]]
            all_scores: list[TokenScore | None] = [*scores[index]]
            if self.body.echo:
                text = self.choice.served.tokenizer.decode(stream.request.prompt) + text
                all_scores, of_tokens = stream.prompt_scores + all_scores, stream.request.prompt + of_tokens
            choices.append(
                CompletionChoice.model_construct(
                    index=index,
                    text=text,
                    finish_reason=ends[index],
                    logprobs=self._logprobs(all_scores, of_tokens, self._offset[index]),
                )
            )
        return Completion.model_construct(
            **self.head(),
            object="text_completion",
            choices=choices,
            usage=self.usage(),
            odeformer=self.about(),
        )


class ChatForm(Form):
    """Answers of ``/v1/chat/completions``."""

    prefix = "chatcmpl"

    def _logprobs(self, scores: tuple[TokenScore, ...] | list[TokenScore]) -> dict[str, object] | None:
        if not self.body.logprobs:
            return None

        def entry(token: int, logprob: float) -> dict[str, object]:
            text = self.token(token)
            return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8"))}

        return {
            "content": [
                {**entry(score.token, score.logprob), "top_logprobs": [entry(*best) for best in score.top]}
                for score in scores
            ]
        }

    def chunk(self, index: int, piece: Piece, is_first: bool) -> dict[str, object]:
        delta = {"content": piece.text} | ({"role": "assistant"} if is_first else {})
        choice = {
            "index": index,
            "delta": delta,
            "finish_reason": piece.finish,
            "logprobs": self._logprobs(piece.scores),
        }
        content = {**self.head(), "object": "chat.completion.chunk", "choices": [choice]}
        return ChatCompletionChunk.model_validate(content).model_dump()

    def whole(self, texts: list[str], scores: list[list[TokenScore]], ends: list[str]) -> BaseModel:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text},
                "finish_reason": ends[index],
                "logprobs": self._logprobs(scores[index]),
            }
            for index, text in enumerate(texts)
        ]
        return ChatCompletion.model_validate(
            {
                **self.head(),
                "object": "chat.completion",
                "choices": choices,
                "usage": self.usage(),
                "odeformer": self.about(),
            }
        )
