"""Short reasons for errors of other libraries, such as damaged files."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """The first line of an error's message, cut if it is long; the name of its type if there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
