"""Lists in OpenAI's form, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Query

from cluster.door.refusals import bad_request

Limit = Annotated[int, Query(ge=1, le=1000)]
Order = Literal["asc", "desc"]
"""Ascending or descending in time."""


def page(data: Sequence[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """A page of objects."""
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"object": "list", "data": data, "has_more": has_more, **ends}


def page_of(items: Sequence[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """The page of a whole list that begins behind the object with the id ``after``.

    Raises:
        ApiError: if the list has no such object.
    """
    start = 0
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise bad_request(f"after: there is no {after[:100]!r} in this list", "after")
        start = ids.index(after) + 1
    return page(items[start : start + limit], start + limit < len(items))
