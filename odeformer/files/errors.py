"""Short reasons for errors of other libraries, such as damaged files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from odeformer.files.shown import masked


def reason(error: BaseException) -> str:
    """The first line of an error's message, masked, cut if it is long; its type's name if there is none."""
    return masked((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]


@contextmanager
def panics_are_errors() -> Iterator[None]:
    """Turn a panic of a library in Rust, such as a tokenizer's, into an error; it is no ``Exception``.

    Raises:
        ValueError: with the first line of the panic.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # no module exports the class
            raise
        raise ValueError(
            f"the tokenizer cannot read a text ({reason(error)}): use another tokenizer"
        ) from None
