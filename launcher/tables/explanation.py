"""Why an answer, for the terminal."""

from __future__ import annotations

from launcher.generation.answer import Answer
from launcher.tables.tokens import percent, shown

MOST = 8


def explanation_lines(answer: Answer) -> list[str]:
    """How sure the model was, and the prompt's tokens that it leaned on most, in plain words."""
    why = answer.explanation
    if why is None:
        return ["no token was written: there is nothing to explain"]
    lines = [
        f"how sure: {percent(why.confidence)} for each token, the mean of {len(why.probabilities)} "
        f"(least {percent(min(why.probabilities))})",
        f"leaned on, by {why.method}:",
    ]
    lines += [
        f"  {percent(share):>7}  “{shown(answer.tokens[position])}” (token {position + 1})"
        for position, share in why.strongest(MOST)
    ]
    if why.first:
        lines.append(f"the first {why.first} tokens of the prompt did not fit the context")
    return lines
