"""How a list says that there is more: `Link: <...>; rel="next"` (RFC 8288), the same list from the next page on. The body stays a plain array."""

from urllib.parse import urlencode

from fastapi import Request, Response


def show_next(request: Request, response: Response, after: str | None) -> None:
    """Name the next page of this list in the answer; nothing where there is none (`after` is None)."""
    if after is not None:
        query = [(name, value) for name, value in request.query_params.multi_items() if name != "after"]
        response.headers["link"] = f'<{request.url.path}?{urlencode([*query, ("after", after)])}>; rel="next"'
