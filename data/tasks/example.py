"""Examples of fine-tuning tasks, and tokens made of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import NamedTuple


@dataclass(frozen=True)
class AnyExample:
    """An example of a kind of task, as it was read."""

    def digest(self) -> bytes:
        """SHA-256 of the example, which identifies it."""
        content = {field.name: getattr(self, field.name) for field in fields(self) if field.compare}
        return hashlib.sha256(json.dumps(content).encode("utf-8")).digest()


@dataclass(frozen=True)
class Example(AnyExample):
    """A prompt and its completion; or, without a prompt, a text that is learned as a whole."""

    prompt: str | None
    completion: str


class Window(NamedTuple):
    """A tokenized example, or a part of one."""

    ids: list[int]
    """Token ids, in a batch at most sequence_length + 1."""
    counts: list[bool]
    """Whether each of the targets ``ids[1:]`` counts in the loss."""


class Pair(NamedTuple):
    """Two tokenized answers to the same prompt, of which the first is to become likelier than the second."""

    chosen: Window
    rejected: Window


Encodable = Example | Window | Pair
"""What a stream makes rows of."""
