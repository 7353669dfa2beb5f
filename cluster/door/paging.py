"""Lists in OpenAI's form, a page at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NotRequired, Protocol, TypedDict, TypeVar

from fastapi import Query

from cluster.door.refusals import bad_request

Limit = Annotated[int, Query(ge=1, le=1000)]
Item = TypeVar("Item")
Order = Literal["asc", "desc"]
"""Ascending or descending in time."""


class Shown(Protocol):
    """An object of OpenAI's, as the ``openai`` package defines them."""

    id: str


class Page(TypedDict):
    """A page of a list."""

    object: Literal["list"]
    data: list[Shown]
    has_more: bool
    first_id: NotRequired[str]
    last_id: NotRequired[str]


def page(data: Sequence[Shown], has_more: bool) -> Page:
    """A page of objects."""
    content = Page(object="list", data=list(data), has_more=has_more)
    if data:
        content |= {"first_id": data[0].id, "last_id": data[-1].id}
    return content


def page_of(
    items: Sequence[Item],
    id_of: Callable[[Item], str],
    form: Callable[[Item], Shown],
    after: str | None,
    limit: int,
) -> Page:
    """The page of a whole list that begins behind the item with the id ``after``.

    Args:
        form: makes the object that is shown of an item.

    Raises:
        ApiError: if the list has no such item.
    """
    start = 0
    if after is not None:
        ids = [id_of(item) for item in items]
        if after not in ids:
            raise bad_request(f"after: there is no {after[:100]!r} in this list", "after")
        start = ids.index(after) + 1
    return page([form(item) for item in items[start : start + limit]], start + limit < len(items))
