"""A generated answer, with the models that gave it and its explanation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odeformer.analysis.answers.explanation import Explanation


@dataclass(frozen=True)
class Answer:
    """What was written, by what, and why."""

    text: str
    """The continuation alone."""
    tokens: tuple[str, ...]
    """The prompt's, as texts."""
    models: tuple[dict[str, str], ...]
    """Name, kind and digest of the adapter, if there is one, and of the checkpoint."""
    depth: int
    drawn: int
    """Tokens of the answer."""
    explanation: Explanation | None
    """None unless it was asked for, or for an answer without any token."""
