"""How many requests of a key are open, or how many bytes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from cluster.web.errors import ApiError


class OpenRequests:
    """Counts the open requests of each key, and refuses more than ``most`` of one.

    For an event loop: not thread-safe.

    Args:
        what: what is counted, for messages.
    """

    def __init__(self, most: int, what: str = "requests") -> None:
        self._most, self._what = most, what
        self._open: dict[str, int] = {}

    @contextmanager
    def counted(self, key: str, count: int = 1) -> Iterator[None]:
        """Count a request, or several, while the block runs.

        Raises:
            ApiError: when that would be too many.
        """
        if self._open.get(key, 0) + count > self._most:
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{self._most} {self._what} of this key are open, the most: try again",
            )
        self._open[key] = self._open.get(key, 0) + count
        try:
            yield
        finally:
            self._open[key] -= count
            if not self._open[key]:
                del self._open[key]
