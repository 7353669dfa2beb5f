"""The HTTP interface, in the form of OpenAI's."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from openai.types import Model
from starlette.concurrency import run_in_threadpool

from cluster.serving.answers import ChatForm, CompletionForm
from cluster.serving.keys import Keys
from cluster.serving.reading import chat_prompt, chosen_model, encoded, streams_of
from cluster.serving.requests import ChatRequest, CompletionRequest
from cluster.serving.sending import answer
from cluster.serving.server import Server
from cluster.serving.webhook import MOST_BYTES, check_signature, read_secret
from cluster.web.bodies import read_body, read_bytes
from cluster.web.errors import ApiError, answer_errors, invalid_key
from cluster.web.open_requests import OpenRequests

PLAYGROUND = Path(__file__).parent / "playground.html"


def make_app(server: Server, keys: Keys | None = None) -> FastAPI:
    """The application for a server; with ``keys``, every request needs one of them."""
    app = FastAPI(title="Odeformer", docs_url=None, redoc_url=None, openapi_url=None)
    open_requests = OpenRequests(server.settings.most_streams)

    def counted(request: Request, choices: int = 1) -> AbstractContextManager[None]:
        """Check the key, and count its open choices of requests."""
        key = "" if keys is None else keys.owner(request.headers.get("authorization", ""))
        if key is None:
            raise invalid_key()
        return open_requests.counted(key, choices)

    answer_errors(app, server.metrics.refused)

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
            engine = server.current.engine
            running = {f"N={depth}": count for depth, count in engine.running.items()}
            return {"requests": {"waiting": engine.waiting, **running}, "slowdown": engine.times.factor}

    if server.settings.webhook_secret is not None:
        secret = read_secret(server.settings.webhook_secret)

        @app.post("/webhooks/mlflow")
        async def alias_moved(request: Request) -> Response:
            body = await read_bytes(request, MOST_BYTES)
            check_signature(secret, request.headers, body)
            server.look_soon()  # it reads what the alias names itself: a second delivery changes nothing
            return Response(status_code=HTTPStatus.ACCEPTED)

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        with counted(request):
            listed = await run_in_threadpool(models_of, server)
            return {"object": "list", "data": [model.model_dump() for model in listed]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        with counted(request):
            for listed in await run_in_threadpool(models_of, server):
                if listed.id == name:
                    return listed.model_dump()
            raise ApiError(
                HTTPStatus.NOT_FOUND, f"there is no model {name!r} here", "model", "model_not_found"
            )

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        with ExitStack() as held:
            held.enter_context(counted(request))
            body = await read_body(request, CompletionRequest, server.settings.most_body_bytes)
            choice = await chosen_model(server, body)
            count = len(body.prompts) * (body.n or 1)
            if count > server.settings.most_streams:
                most = server.settings.most_streams
                raise ApiError(HTTPStatus.BAD_REQUEST, f"{count} choices are more than {most}", "n")
            held.enter_context(counted(request, count - 1))
            prompts = [
                await run_in_threadpool(encoded, choice, prompt) if isinstance(prompt, str) else prompt
                for prompt in body.prompts
            ]
            streams = streams_of(server, choice, body, prompts, body.logprobs)
            for stream in streams:
                stream.scores_prompt = bool(body.echo) and body.logprobs is not None
            form = CompletionForm(choice, streams, body)
            return await answer(request, form, choice, streams, body, held)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        with ExitStack() as held:
            held.enter_context(counted(request))
            body = await read_body(request, ChatRequest, server.settings.most_body_bytes)
            choice = await chosen_model(server, body)
            held.enter_context(counted(request, (body.n or 1) - 1))
            ids = await run_in_threadpool(chat_prompt, choice, body)
            top = (body.top_logprobs or 0) if body.logprobs else None
            streams = streams_of(server, choice, body, [ids], top)
            return await answer(request, ChatForm(choice, streams, body), choice, streams, body, held)

    return app


def models_of(server: Server) -> list[Model]:
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
