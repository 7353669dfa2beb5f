"""Short reasons for errors of other libraries, such as damaged files."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
