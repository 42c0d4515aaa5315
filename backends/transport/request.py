"""The head of an HTTP/1.1 request, written and checked.

One refusal guards every exchange: a CR, LF or NUL anywhere in the head that we did not put there ourselves would let a header
value write another header, or another request (RFC 9112, 11.1 and 11.2). So the line ends of what was written are counted,
which costs three scans in C instead of one look at each value. The lines that are the same in request after request are written and
checked once.
"""

import re
from collections.abc import Container
from functools import lru_cache

from backends.transport.seam import Buffer, Exchange, Origin

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH = re.compile(r"/[\x21-\x7e]*")
_OURS = frozenset({"host", "content-length", "connection", "transfer-encoding"})
_NAMES_MAX = 512  # names are our providers' own and few; the bound is for whoever passes them through
_names_seen: set[str] = set()
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})


@lru_cache(maxsize=1024)
def host_of(origin: Origin) -> str:
    """Write the Host of an origin: brackets around an IPv6 address, no port where it is the scheme's own."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return host if origin.port == (443 if origin.scheme == "https" else 80) else f"{host}:{origin.port}"


def body_bytes(body: tuple[Buffer, ...]) -> int:
    """Sum the parts of a body in bytes (a memoryview's len() counts items, not bytes)."""
    if len(body) == 1 and type(body[0]) is bytes:
        return len(body[0])
    return sum([part.nbytes if type(part) is memoryview else len(part) for part in body])


def write_head(exchange: Exchange, length: int) -> bytes:
    """Write the request line and headers for a body of `length` bytes.

    Raises ValueError for a method, path, header name or value that HTTP does not allow, before anything has been sent.
    """
    method = exchange.method
    lines = _kept_lines(method, exchange.path, exchange.origin, exchange.headers) + _lines(exchange.own_headers)
    if length > 0 or method in _BODY_METHODS:
        return f"{lines}content-length: {length}\r\n\r\n".encode("latin-1")
    return f"{lines}\r\n".encode("latin-1")


@lru_cache(maxsize=1024)
def _kept_lines(method: str, path: str, origin: Origin, headers: tuple[tuple[str, str], ...]) -> str:
    if not (method.isascii() and method.isalpha()):
        raise ValueError(f"not a method: {method!r}")
    if _PATH.fullmatch(path) is None:
        raise ValueError(f"not a request path: {path[:200]!r}")
    return f"{method} {path} HTTP/1.1\r\n" + _lines((("host", host_of(origin)),), _OURS) + _lines(headers)


def _lines(headers: tuple[tuple[str, str], ...], known: Container[str] = _names_seen) -> str:
    lines = ""
    for name, value in headers:
        if name not in known:
            _check_name(name)
        lines += f"{name}: {value}\r\n"
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise ValueError("a header value or host holds a CR, LF or NUL")
    return lines


def _check_name(name: str) -> None:
    if _TOKEN.fullmatch(name) is None or name.lower() in _OURS:
        raise ValueError(f"not a header name that a request may carry: {name[:100]!r}")
    if len(_names_seen) < _NAMES_MAX:
        _names_seen.add(name)
