"""Conversations in OpenAI's form, of which the assistant's turns are learned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from data.chat import ChatTemplate
from data.tasks.example import AnyExample, Window
from data.tasks.rows import read_rows


def _text(content: Any) -> Any:
    """The text of a message; that of several parts put together."""
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise ValueError('parts of {"type": "text", "text": …} are expected')
        return "".join(str(part.get("text")) for part in content)
    if not isinstance(content, str | None):
        raise ValueError("a text, or a list of parts that are texts, is expected")
    return content


def _arguments(given: Any) -> Any:
    """The arguments of a call, which OpenAI writes as JSON in a text, and templates expect as an object."""
    try:
        given = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ValueError("a JSON object is expected, or one in a text")
    return given


class _Function(BaseModel):
    name: str
    arguments: Annotated[dict[str, Any], BeforeValidator(_arguments)] = Field(default_factory=dict)


class _Call(BaseModel):
    model_config = ConfigDict(extra="allow")

    function: _Function


class _Message(BaseModel):
    # Templates read fields of their own, such as reasoning_content.
    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(_text)] = None
    tool_calls: list[_Call] | None = None
    weight: Literal[0, 1] | None = None
    """Whether an assistant's turn is learned, as in OpenAI's files."""


Messages = TypeAdapter(Annotated[list[_Message], Field(min_length=1)])


@dataclass(frozen=True)
class Conversation(AnyExample):
    """Messages, and the tools that the assistant may call in them."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    place: str = field(default="", compare=False)
    """File and line, for error messages."""


def read_chats(path: Path, prompt: str, completion: str, split: str) -> list[Conversation]:
    """The conversations in the field ``messages`` of a table's rows; they need no templates.

    Raises:
        FileNotFoundError, ValueError: naming file and line.
    """
    read = []
    for place, fields in read_rows(path, ("messages", "tools"), split):
        messages = checked_messages(place, fields, "messages")
        if not any(m["role"] == "assistant" and m.get("weight", 1) for m in messages):
            raise ValueError(f"{place} has no turn of the assistant's to learn: add one or drop the line")
        read.append(Conversation(messages, checked_tools(place, fields), place))
    return read


def checked_messages(place: str, fields: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The messages in a field.

    Raises:
        ValueError: naming place and field, and what is expected there.
    """
    if name not in fields:
        raise ValueError(f"{place} has no field {name!r}: a list of messages is expected there")
    try:
        messages = Messages.validate_python(fields[name])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (name, *first["loc"])))
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place}: {where}: {message}, not {first['input']!r:.60}") from None
    content = [message.model_dump(exclude_none=True) for message in messages]
    _check_unicode(place, name, content)
    return content


def checked_tools(place: str, fields: Mapping[str, Any]) -> list[Any] | None:
    """The field ``tools``, if there is one.

    Raises:
        ValueError: naming the place.
    """
    tools = fields.get("tools")
    if not isinstance(tools, list | None):
        raise ValueError(f"{place}: tools: a list of descriptions of tools is expected, not {tools!r:.60}")
    _check_unicode(place, "tools", tools)
    return tools or None


def _check_unicode(place: str, name: str, content: Any) -> None:
    try:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{place}: field {name!r} has half of a surrogate pair") from None
    except TypeError as error:
        raise ValueError(f"{place}: field {name!r} is no JSON ({error})") from None


def tokenized(conversation: Conversation, chat: ChatTemplate) -> Window:
    """The tokens of a conversation, of which the assistant's count, or those of turns with weight 1.

    Raises:
        ValueError: naming the place, if the chat template refuses it.
    """
    written = [
        {key: value for key, value in message.items() if key != "weight"} for message in conversation.messages
    ]
    weights = [m.get("weight", 1) for m in conversation.messages if m["role"] == "assistant"]
    try:
        ids, turns = chat.encode_turns(written, conversation.tools)
        if len(turns) != len(weights):
            if 0 in weights:
                raise ValueError("weight: the chat template does not mark one part for each turn")
            weights = [1] * len(turns)
    except ValueError as error:
        raise ValueError(f"{conversation.place}: {error}") from None
    return counting(ids, [turn for turn, weight in zip(turns, weights, strict=True) if weight])


def counting(ids: list[int], turns: list[range]) -> Window:
    """Tokens of which those at some places count."""
    counts = [False] * len(ids)
    for turn in turns:
        counts[turn.start : turn.stop] = [True] * len(turn)
    return Window(ids, counts[1:])
