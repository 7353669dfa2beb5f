"""Reading a request: its body, the model that it names, its prompts; refused by the field that is wrong."""

from __future__ import annotations

import uuid
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool

from cluster.serving.requests import ChatRequest, Decoding
from cluster.serving.server import Choice, Server, UnknownModelError
from cluster.serving.streams import Stream
from cluster.web.errors import ApiError
from data.tokenizer import end_of_text_id
from odeformer.inference import engine
from odeformer.inference.generate import ContinuedText
from odeformer.inference.sampling import Sampling


async def chosen_model(server: Server, body: Decoding) -> Choice:
    """The model that a request names."""
    try:
        choice = await run_in_threadpool(server.choose, body.model)
    except UnknownModelError as error:
        raise ApiError(HTTPStatus.NOT_FOUND, str(error), "model", "model_not_found") from None
    except ValueError as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"{body.model}: {error}", "model") from None
    except OSError as error:
        raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, f"{body.model}: {error}", "model") from None
    if choice.depth is not None and (body.depth not in (None, choice.depth) or body.latency_ms is not None):
        raise ApiError(
            HTTPStatus.BAD_REQUEST, f"model names depth {choice.depth}: give no other, and no budget", "depth"
        )
    return choice


def encoded(choice: Choice, text: str) -> list[int]:
    """The token ids of a text, which must not be so long that it cannot fit."""
    _check_length(choice, text, "prompt")
    ids: list[int] = choice.served.tokenizer.encode(text).ids
    return ids


def _check_length(choice: Choice, text: str, field: str) -> None:
    served = choice.served
    if len(text.encode("utf-8")) > served.engine.capacity * served.longest_token:
        raise ApiError(
            HTTPStatus.BAD_REQUEST,
            f"the text is longer than the context of {served.engine.capacity} tokens",
            field,
            "context_length_exceeded",
        )


def chat_prompt(choice: Choice, body: ChatRequest) -> list[int]:
    """The token ids of a conversation, by the chat template that the model was trained with."""
    template = choice.chat_template
    if template is None:
        raise ApiError(
            HTTPStatus.BAD_REQUEST, f"{body.model} has no chat template: use /v1/completions", "messages"
        )
    _check_length(choice, "".join(message.text for message in body.messages), "messages")
    try:
        return template.encode([{"role": m.role, "content": m.text} for m in body.messages])
    except ValueError as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, str(error), "messages") from None


def streams_of(
    server: Server, choice: Choice, body: Decoding, prompts: list[list[int]], top: int | None
) -> list[Stream]:
    """A stream for each choice of each prompt, checked."""
    served, sampling = choice.served, Sampling(
        1.0 if body.temperature is None else body.temperature, body.top_k, body.top_p or 1.0
    )  # fmt: skip
    limit = getattr(body, "max_completion_tokens", None) or body.max_tokens
    most = server.settings.most_tokens
    if (limit or 0) > most:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"max_tokens {limit} is more than {most}", "max_tokens")
    seed = uuid.uuid4().int % 2**31 if body.seed is None else body.seed
    chat = choice.chat_template if isinstance(body, ChatRequest) else None
    stop_id = end_of_text_id(served.tokenizer) if chat is None else chat.stop_id
    streams = []
    for prompt in prompts:
        for number in range(body.n or 1):
            request = engine.Request(
                prompt=prompt,
                max_new_tokens=limit,
                depth=body.depth if choice.depth is None else choice.depth,
                latency_ms=body.latency_ms,
                adapter=choice.adapter,
                sampling=sampling,
                seed=seed + number,
                stop_id=stop_id,
            )
            try:
                served.engine.check(request)
            except ValueError as error:
                named = "depth" if "offered" in str(error) else body.prompt_field
                code = "context_length_exceeded" if "context" in str(error) else None
                raise ApiError(HTTPStatus.BAD_REQUEST, str(error), named, code) from None
            if limit is None:
                request.max_new_tokens = min(request.max_new_tokens or most, most)
            text = ContinuedText(served.tokenizer, prompt, body.stops)
            streams.append(Stream(request, text, top, server.metrics))
    return streams
