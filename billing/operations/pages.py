"""A page of a list: so many things, and the id after which the next page begins."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from billing.errors import Invalid

T = TypeVar("T")

LIMIT_MAX = 1000


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Some of a list, in order. `after`: give it to have the next page; None: this is the last."""

    items: list[T]
    after: str | None = None


def check_limit(limit: int) -> int:
    """Return a page's length when it can be one, else raise `Invalid`."""
    if not 1 <= limit <= LIMIT_MAX:
        raise Invalid("limit", f"limit: {limit} is not between 1 and {LIMIT_MAX}")
    return limit


def cut(found: Sequence[T], limit: int, key: Callable[[T], str]) -> Page[T]:
    """Make a page of at most `limit` things, of which one more was asked for to see whether there is another page."""
    items = list(found[:limit])
    return Page(items=items, after=key(items[-1]) if len(found) > limit else None)
