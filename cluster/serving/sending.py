"""Sending the texts of a request's streams, at once or as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from cluster.serving.answers import Form
from cluster.serving.errors import FAILURES, as_api_error
from cluster.serving.requests import Decoding
from cluster.serving.server import Choice
from cluster.serving.streams import Piece, Stream, TokenScore


class HeldStream(StreamingResponse):
    """A stream of events that gives something back when it ends, however it ends."""

    def __init__(self, events: AsyncIterator[str], held: ExitStack) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._held = held

    async def __call__(self, *arguments: Any) -> None:
        with self._held:
            await super().__call__(*arguments)


async def answer(
    request: Request, form: Form, choice: Choice, streams: list[Stream], body: Decoding, held: ExitStack
) -> Response:
    """Submit all streams and send their texts; ``held`` is given back when the last one has been sent."""
    try:
        for stream in streams:
            stream.submit(choice.served.engine)
    except FAILURES as error:
        for stream in streams:
            stream.cancel()
        raise as_api_error(error) from None
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
        raise as_api_error(error) from None
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
                yield _event(as_api_error(item).content)
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


def _event(content: Mapping[str, object]) -> str:
    return f"data: {json.dumps(content)}\n\n"
