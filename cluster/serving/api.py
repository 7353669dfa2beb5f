"""The HTTP interface, in the form of OpenAI's; requests and answers are those of its ``openai`` package."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from openai.types import Completion, CompletionChoice, CompletionUsage, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion_choice import Logprobs
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from cluster.serving.keys import Keys
from cluster.serving.requests import ChatRequest, CompletionRequest, Decoding
from cluster.serving.server import Choice, Server, UnknownModelError
from cluster.serving.streams import Piece, Stream, TokenScore
from data.tokenizer import end_of_text_id
from odeformer.inference import engine
from odeformer.inference.generate import ContinuedText
from odeformer.inference.sampling import Sampling

PLAYGROUND = Path(__file__).parent / "playground.html"
FAILURES = (ValueError, OverflowError, RuntimeError, ArithmeticError)
"""What the engine raises, or tells a request."""
Body = TypeVar("Body", bound=BaseModel)


class ApiError(Exception):
    """An answer in OpenAI's form of an error."""

    def __init__(self, status: HTTPStatus, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        self.content = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def make_app(server: Server, keys: Keys | None = None) -> FastAPI:
    """The application for a server; with ``keys``, every request needs one of them."""
    app = FastAPI(title="Odeformer", docs_url=None, redoc_url=None, openapi_url=None)
    open_requests: dict[str, int] = {}

    @contextmanager
    def counted(request: Request, choices: int = 1) -> Iterator[None]:
        """Check the key, and count its open choices of requests."""
        key = "" if keys is None else keys.owner(request.headers.get("authorization", ""))
        if key is None:
            raise ApiError(
                HTTPStatus.UNAUTHORIZED,
                "a valid key is needed: Authorization: Bearer KEY",
                code="invalid_api_key",
            )
        if open_requests.get(key, 0) + choices > server.settings.most_streams:
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS, f"{server.settings.most_streams} requests of this key are open"
            )
        open_requests[key] = open_requests.get(key, 0) + choices
        try:
            yield
        finally:
            open_requests[key] -= choices
            if not open_requests[key]:
                del open_requests[key]

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.content, error.status)

    @app.exception_handler(Exception)
    async def own_mistake(request: Request, error: Exception) -> Response:
        message = "an error of the server's: its log has the cause"
        return JSONResponse(ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, message).content, 500)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return JSONResponse(
            ApiError(HTTPStatus(error.status_code), str(error.detail)).content, error.status_code
        )

    @app.get("/")
    async def playground() -> Response:
        return HTMLResponse(PLAYGROUND.read_text(encoding="utf-8"))

    @app.get("/health")
    async def health() -> Response:
        is_well = server.current.is_alive
        return JSONResponse({"alive": is_well}, HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE)

    @app.get("/load")
    async def load(request: Request) -> dict[str, Any]:
        with counted(request):
            return {"requests": server.current.engine.load, "slowdown": server.current.engine.times.factor}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        with counted(request):
            listed = await run_in_threadpool(_models, server)
            return {"object": "list", "data": [model.model_dump() for model in listed]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        with counted(request):
            for listed in await run_in_threadpool(_models, server):
                if listed.id == name:
                    return listed.model_dump()
            raise ApiError(
                HTTPStatus.NOT_FOUND, f"there is no model {name!r} here", "model", "model_not_found"
            )

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        with ExitStack() as held:
            held.enter_context(counted(request))
            body = await _body(request, CompletionRequest, server.settings.most_body_bytes)
            choice = await _choice(server, body)
            count = len(body.prompts) * (body.n or 1)
            if count > server.settings.most_streams:
                most = server.settings.most_streams
                raise ApiError(HTTPStatus.BAD_REQUEST, f"{count} choices are more than {most}", "n")
            held.enter_context(counted(request, count - 1))
            prompts = [
                await run_in_threadpool(_encoded, choice, prompt) if isinstance(prompt, str) else prompt
                for prompt in body.prompts
            ]
            streams = _streams(server, choice, body, prompts, body.logprobs)
            for stream in streams:
                stream.scores_prompt = bool(body.echo) and body.logprobs is not None
            form = CompletionForm(choice, streams, body)
            return await _answer(request, form, choice, streams, body, held)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        with ExitStack() as held:
            held.enter_context(counted(request))
            body = await _body(request, ChatRequest, server.settings.most_body_bytes)
            choice = await _choice(server, body)
            held.enter_context(counted(request, (body.n or 1) - 1))
            prompt = await run_in_threadpool(_chat_prompt, choice, body)
            ids = await run_in_threadpool(_encoded, choice, prompt)
            top = (body.top_logprobs or 0) if body.logprobs else None
            streams = _streams(server, choice, body, [ids], top)
            return await _answer(request, ChatForm(choice, streams, body), choice, streams, body, held)

    return app


async def _body(request: Request, kind: type[Body], most_bytes: int) -> Body:
    """The body of a request, checked."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most_bytes:
            raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {most_bytes} bytes")
    try:
        parsed = json.loads(content, parse_constant=_no_constant)
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")  # half a surrogate is no text
    except (ValueError, RecursionError) as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ApiError(HTTPStatus.BAD_REQUEST, "the body is not a JSON object")
    try:
        return kind.model_validate(parsed)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else None
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ApiError(HTTPStatus.BAD_REQUEST, f"{place}: {message}" if place else message, name) from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


async def _choice(server: Server, body: Decoding) -> Choice:
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


def _encoded(choice: Choice, text: str) -> list[int]:
    """The token ids of a text, which must not be so long that it cannot fit."""
    served = choice.served
    if len(text.encode("utf-8")) > served.engine.capacity * served.longest_token:
        raise ApiError(
            HTTPStatus.BAD_REQUEST,
            f"the text is longer than the context of {served.engine.capacity} tokens",
            "prompt",
            "context_length_exceeded",
        )
    ids: list[int] = served.tokenizer.encode(text).ids
    return ids


def _chat_prompt(choice: Choice, body: ChatRequest) -> str:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    if choice.served.chat_template is None:
        raise ApiError(
            HTTPStatus.BAD_REQUEST, f"{body.model} has no chat template: use /v1/completions", "messages"
        )
    messages = [{"role": message.role, "content": message.text} for message in body.messages]
    try:
        rendered, _ = render_jinja_template(
            [messages], chat_template=choice.served.chat_template, add_generation_prompt=True
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"the chat template refuses it: {error}", "messages") from None
    return str(rendered[0])


def _streams(
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
                stop_id=end_of_text_id(served.tokenizer),
            )
            try:
                served.engine.check(request)
            except ValueError as error:
                named = "depth" if "offered" in str(error) else body.prompt_field
                code = "context_length_exceeded" if "context" in str(error) else None
                raise ApiError(HTTPStatus.BAD_REQUEST, str(error), named, code) from None
            if limit is None:
                request.max_new_tokens = min(request.max_new_tokens or most, most)
            streams.append(Stream(request, ContinuedText(served.tokenizer, prompt, body.stops), top))
    return streams


class Form:
    """How the texts of a request's choices are put into answers."""

    kind, chunk_kind, prefix = "", "", ""

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

    def about(self) -> dict[str, Any]:
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

    def chunk(self, index: int, piece: Piece, is_first: bool) -> dict[str, Any]:
        raise NotImplementedError

    def whole(self, texts: list[str], scores: list[list[TokenScore]], ends: list[str]) -> BaseModel:
        raise NotImplementedError


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

    def chunk(self, index: int, piece: Piece, is_first: bool) -> dict[str, Any]:
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

    def _logprobs(self, scores: tuple[TokenScore, ...] | list[TokenScore]) -> dict[str, Any] | None:
        if not self.body.logprobs:
            return None

        def entry(token: int, logprob: float) -> dict[str, Any]:
            text = self.token(token)
            return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8"))}

        return {
            "content": [
                {**entry(score.token, score.logprob), "top_logprobs": [entry(*best) for best in score.top]}
                for score in scores
            ]
        }

    def chunk(self, index: int, piece: Piece, is_first: bool) -> dict[str, Any]:
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


class HeldStream(StreamingResponse):
    """A stream of events that gives something back when it ends, however it ends."""

    def __init__(self, events: AsyncIterator[str], held: ExitStack) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._held = held

    async def __call__(self, *arguments: Any) -> None:
        with self._held:
            await super().__call__(*arguments)


async def _answer(
    request: Request, form: Form, choice: Choice, streams: list[Stream], body: Decoding, held: ExitStack
) -> Response:
    try:
        for stream in streams:
            stream.submit(choice.served.engine)
    except FAILURES as error:
        for stream in streams:
            stream.cancel()
        raise _as_api_error(error) from None
    if body.stream:
        return HeldStream(_events(form, streams, body.includes_usage), held.pop_all())
    texts = [""] * len(streams)
    scores: list[list[TokenScore]] = [[] for _ in streams]
    ends = ["length"] * len(streams)

    async def collect(index: int) -> None:
        async for piece in streams[index].pieces():
            texts[index] += piece.text
            scores[index] += piece.scores
            ends[index] = piece.finish or ends[index]

    tasks = [asyncio.create_task(collect(index)) for index in range(len(streams))]
    watcher = asyncio.create_task(_until_gone(request, tasks))
    try:
        await asyncio.gather(*tasks)
    except FAILURES as error:
        raise _as_api_error(error) from None
    finally:
        for task in (*tasks, watcher):
            task.cancel()
        for stream in streams:
            stream.cancel()
    return JSONResponse(form.whole(texts, scores, ends).model_dump(mode="json"))


async def _until_gone(request: Request, tasks: list[asyncio.Task[None]]) -> None:
    """Cancel the tasks when the client has closed the connection."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()


async def _events(form: Form, streams: list[Stream], with_usage: bool) -> AsyncIterator[str]:
    """Server-sent events of all choices, as they come."""
    merged: asyncio.Queue[tuple[int, Piece] | Exception] = asyncio.Queue(64)

    async def feed(index: int) -> None:
        try:
            async for piece in streams[index].pieces():
                await merged.put((index, piece))
        except FAILURES as error:
            await merged.put(error)

    tasks = [asyncio.create_task(feed(index)) for index in range(len(streams))]
    try:
        begun: set[int] = set()
        left = len(tasks)
        while left:
            item = await merged.get()
            if isinstance(item, Exception):
                yield _event(_as_api_error(item).content)
                return
            index, piece = item
            left -= piece.finish is not None
            chunk = form.chunk(index, piece, index not in begun)
            yield _event(chunk if left else chunk | {"odeformer": form.about()})
            begun.add(index)
        if with_usage:
            empty = form.chunk(0, Piece(""), False) | {"choices": []}
            yield _event(empty | {"usage": form.usage().model_dump()})
        yield "data: [DONE]\n\n"
    finally:
        for task, stream in zip(tasks, streams, strict=True):
            task.cancel()
            stream.cancel()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, OverflowError):
        return ApiError(HTTPStatus.TOO_MANY_REQUESTS, str(error), code="rate_limit_exceeded")
    if isinstance(error, ValueError):
        return ApiError(HTTPStatus.BAD_REQUEST, str(error))
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, str(error))


def _models(server: Server) -> list[Model]:
    """Base and adapters, each with its depths and what they cost."""
    served = server.current
    named = [(served.name, served.version)]
    named += [(entry.name, entry.version) for entry in served.entries.values()]
    listed = []
    for name, version in named:
        costs = served.costs(version)
        depths = [
            {
                "depth": depth,
                "metric": costs.get(depth, {}).get("metric"),
                "score": costs.get(depth, {}).get("score"),
                "milliseconds_per_token": served.engine.times.predicted({depth: 1}),
            }
            for depth in served.engine.depths
        ]
        created = int(version.created) if version else 0
        is_base = version is served.version
        listed.append(
            Model.model_construct(
                id=name,
                object="model",
                created=created,
                owned_by="odeformer",
                version=version.uri if version else served.label,
                base=None if is_base else served.label,
                depths=depths,
                default_depth=served.engine.model_depth,
                context_length=served.engine.capacity,
                chat=served.chat_template is not None,
            )
        )
    return listed
