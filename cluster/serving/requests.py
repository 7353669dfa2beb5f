"""Requests in OpenAI's form, checked; what is not supported is refused by the name of the field."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)


def _refuse(value: Any) -> None:
    if value:
        raise ValueError("is not supported")


def _not_empty(stop: Any) -> Any:
    if "" in ([stop] if isinstance(stop, str) else stop or []):
        raise ValueError("a stop string is empty")
    return stop


def _prompt(prompt: Any) -> Any:
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if prompts and all(isinstance(entry, int) for entry in prompts):
        prompts = [prompts]
    is_good = all(
        isinstance(entry, str) or (isinstance(entry, list) and all(isinstance(i, int) for i in entry))
        for entry in prompts
    )
    if not is_good or not 1 <= len(prompts) <= MOST_PROMPTS or not all(prompts):
        raise ValueError(
            f"a text, token ids, or 1 to {MOST_PROMPTS} of either are expected, none of them empty"
        )
    return prompt


Unsupported = Annotated[Any, AfterValidator(_refuse)]
"""A field of OpenAI's that may only have a value that changes nothing."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
MOST_CHOICES, MOST_PROMPTS, MOST_STOPS, MOST_TOP_LOGPROBS = 16, 64, 4, 20


class Decoding(BaseModel):
    """The fields that completions and chat completions share."""

    prompt_field: ClassVar[str] = "prompt"
    """The field with the text to continue."""

    # Fields of other servers are ignored, as OpenAI's clients expect.
    model_config = ConfigDict(extra="ignore")

    model: str
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(2**62), le=2**62)] | None = None
    stop: Annotated[
        str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None, AfterValidator(_not_empty)
    ] = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    depth: Annotated[int, Field(ge=1)] | None = None
    """Depth N, one of those that are offered."""
    latency_ms: Annotated[Finite, Field(gt=0)] | None = None
    """Milliseconds per token: the largest depth that keeps them is used."""
    frequency_penalty: Unsupported = None
    presence_penalty: Unsupported = None
    logit_bias: Unsupported = None

    @model_validator(mode="after")
    def _depth_or_budget(self) -> Decoding:
        if self.depth is not None and self.latency_ms is not None:
            raise ValueError("give either depth or latency_ms")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return bool((self.stream_options or {}).get("include_usage"))


class CompletionRequest(Decoding):
    """The body of ``/v1/completions``."""

    prompt: Annotated[str | list[str] | list[int] | list[list[int]], BeforeValidator(_prompt)]
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: Unsupported = None

    @model_validator(mode="after")
    def _completion_supported(self) -> CompletionRequest:
        if self.best_of not in (None, 1, self.n):
            raise ValueError("best_of is not supported")
        if self.echo and self.stream:
            raise ValueError("echo is not supported in a stream")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, as texts or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt


class Message(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None

    @field_validator("content")
    @classmethod
    def _only_text(cls, content: Any) -> Any:
        if isinstance(content, list) and any(part.get("type") != "text" for part in content):
            raise ValueError("only parts of type text are supported")
        return content

    @property
    def text(self) -> str:
        """The content; of parts, their texts."""
        if isinstance(self.content, list):
            return "".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class ChatRequest(Decoding):
    """The body of ``/v1/chat/completions``."""

    prompt_field: ClassVar[str] = "messages"

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    tools: Unsupported = None
    response_format: Annotated[
        Any, AfterValidator(lambda f: _refuse((f or {"type": "text"}) != {"type": "text"}))
    ] = None
