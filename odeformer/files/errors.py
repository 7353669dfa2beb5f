"""Short reasons for errors of other libraries, such as damaged files."""

from __future__ import annotations

from odeformer.files.shown import masked


def reason(error: BaseException) -> str:
    """The first line of an error's message, masked, or the name of its type if the message is empty."""
    return masked((str(error).strip().splitlines() or [type(error).__name__])[0])
