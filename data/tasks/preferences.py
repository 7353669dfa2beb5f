"""Pairs of answers to the same prompt, of which one is preferred."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.chat import ChatTemplate
from data.corpus import is_blank
from data.tasks.chats import checked_messages, checked_tools, counting
from data.tasks.example import AnyExample, Example, Pair, Window
from data.tasks.rows import as_text, read_rows
from data.tasks.stream import encode

FIELDS = ("prompt", "chosen", "rejected")
OPENAI = ("input", "preferred_output", "non_preferred_output")
"""The same fields in OpenAI's files, in which ``input`` has the messages and the tools."""


@dataclass(frozen=True)
class Preference(AnyExample):
    """A prompt and two answers: three texts, or three lists of messages."""

    prompt: Any
    chosen: Any
    rejected: Any
    tools: list[Any] | None = None
    place: str = field(default="", compare=False)
    """File and line, for error messages."""


def read_preferences(path: Path, prompt: str, completion: str, split: str) -> list[Preference]:
    """The pairs in the fields ``prompt``, ``chosen`` and ``rejected`` of a table's rows, or in OpenAI's.

    Raises:
        FileNotFoundError, ValueError: naming file and line.
    """
    rows = read_rows(path, (*FIELDS, "tools", *OPENAI), split)
    return [_preference(place, _named_as_ours(fields)) for place, fields in rows]


def _named_as_ours(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    given = fields.get("input")
    if not isinstance(given, dict):
        return fields
    answers = {ours: fields[theirs] for ours, theirs in zip(FIELDS, OPENAI, strict=True) if theirs in fields}
    return {**answers, "prompt": given.get("messages"), "tools": given.get("tools")}


def _preference(place: str, fields: Mapping[str, Any]) -> Preference:
    for name in FIELDS:
        if name not in fields:
            raise ValueError(f"{place} has no field {name!r}: {', '.join(FIELDS)} are expected")
    kinds = {type(fields[name]) for name in FIELDS}
    parts: list[Any]
    if kinds == {str}:
        parts = [as_text(place, name, fields[name]) for name in FIELDS]
        for name, text in zip(FIELDS[1:], parts[1:], strict=True):
            if is_blank(text):
                raise ValueError(f"{place}: {name} is empty: fill it or drop the line")
    elif kinds == {list}:
        parts = [checked_messages(place, fields, name) for name in FIELDS]
        for name, messages in zip(FIELDS[1:], parts[1:], strict=True):
            if not any(message["role"] == "assistant" for message in messages):
                raise ValueError(f"{place}: {name} has no turn of the assistant's: add one or drop the line")
    else:
        raise ValueError(f"{place}: {', '.join(FIELDS)} are three texts, or three lists of messages")
    prompt, chosen, rejected = parts
    if chosen == rejected:
        raise ValueError(f"{place}: chosen and rejected are the same: drop the line")
    return Preference(prompt, chosen, rejected, checked_tools(place, fields), place)


def tokenized(example: Preference, chat: ChatTemplate) -> Pair:
    """The tokens of both answers behind the prompt; only those of the answers count.

    Raises:
        ValueError: naming the place, if the chat template refuses it.
    """
    try:
        return Pair(*(_answered(example, answer, chat) for answer in (example.chosen, example.rejected)))
    except ValueError as error:
        raise ValueError(f"{example.place}: {error}") from None


def _answered(example: Preference, answer: Any, chat: ChatTemplate) -> Window:
    if isinstance(answer, str):
        [window] = encode(Example(example.prompt, answer), chat.tokenizer, sys.maxsize)
        return window
    ids, turns = chat.encode_turns([*example.prompt, *answer], example.tools)
    before = sum(message["role"] == "assistant" for message in example.prompt)
    own = sum(message["role"] == "assistant" for message in answer)
    if len(turns) != before + own:
        raise ValueError("the chat template does not mark one part for each turn of the assistant's")
    window = counting(ids, turns[before:])
    if not any(window.counts):
        raise ValueError("the chat template writes nothing of an answer")
    return window
