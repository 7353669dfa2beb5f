"""A generated answer, with the models that gave it and its explanation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odeformer.analysis.answers.explanation import Explanation


@dataclass(frozen=True)
class Answer:
    """A continuation of a prompt."""

    text: str
    """The continuation without the prompt."""
    tokens: tuple[str, ...]
    """Texts of the prompt's tokens."""
    models: tuple[dict[str, str], ...]
    """Name, kind and digest of the adapter, if there is one, and of the checkpoint."""
    depth: int
    drawn: int
    """Number of generated tokens."""
    explanation: Explanation | None
    """None unless requested, and for an answer without tokens."""
