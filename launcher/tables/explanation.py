"""The explanation that ``odeformer generate --explain`` prints."""

from __future__ import annotations

from launcher.generation.answer import Answer
from launcher.tables.tokens import percent, shown

MOST = 8
"""Number of prompt tokens to show."""


def explanation_lines(answer: Answer) -> list[str]:
    """The model's confidence and the prompt's most influential tokens."""
    why = answer.explanation
    if why is None:
        return ["no token was generated: there is nothing to explain"]
    lines = [
        f"confidence: {percent(why.confidence)} per token, the mean of {len(why.probabilities)} "
        f"(lowest {percent(min(why.probabilities))})",
        f"most influential tokens, by {why.method}:",
    ]
    for position, share in why.strongest(MOST):
        lines.append(f"  {percent(share):>7}  “{shown(answer.tokens[position])}” (token {position + 1})")
    if why.first:
        lines.append(f"the first {why.first} tokens of the prompt did not fit the context")
    return lines
