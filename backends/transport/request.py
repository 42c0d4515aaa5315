"""The head of an HTTP/1.1 request, written and checked.

One refusal guards every exchange: a CR, LF or NUL anywhere in the head that we did not put there ourselves would let a header
value write another header, or another request (RFC 9112, 11.1 and 11.2). So the line ends of the finished head are counted,
which costs three scans in C instead of one look at each value.
"""

import re
from functools import lru_cache

from backends.transport.seam import Buffer, Exchange, Origin

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PATH = re.compile(r"/[\x21-\x7e]*")
_OURS = frozenset({"host", "content-length", "connection", "transfer-encoding"})
_NAMES_MAX = 512  # names and paths are our providers' own and few; the bound is for whoever passes them through
_names_seen: set[str] = set()
_targets_seen: set[tuple[str, str]] = set()
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})


@lru_cache(maxsize=1024)
def host_of(origin: Origin) -> str:
    """Write the Host of an origin: brackets around an IPv6 address, no port where it is the scheme's own."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return host if origin.port == (443 if origin.scheme == "https" else 80) else f"{host}:{origin.port}"


def body_bytes(body: tuple[Buffer, ...]) -> int:
    """Sum the parts of a body in bytes (a memoryview's len() counts items, not bytes)."""
    return sum([part.nbytes if type(part) is memoryview else len(part) for part in body])


def write_head(exchange: Exchange, length: int) -> bytes:
    """Write the request line and headers for a body of `length` bytes.

    Raises ValueError for a method, path, header name or value that HTTP does not allow, before anything has been sent.
    """
    method, headers = exchange.method, exchange.headers
    if (method, exchange.path) not in _targets_seen:
        _check_target(method, exchange.path)
    for name, _ in headers:
        if name not in _names_seen:
            _check_name(name)
    has_length = length > 0 or method in _BODY_METHODS
    head = (
        f"{method} {exchange.path} HTTP/1.1\r\nhost: {host_of(exchange.origin)}\r\n"
        + "".join([f"{name}: {value}\r\n" for name, value in headers])
        + (f"content-length: {length}\r\n\r\n" if has_length else "\r\n")
    )
    lines = len(headers) + (4 if has_length else 3)
    if head.count("\n") != lines or head.count("\r") != lines or "\0" in head:
        raise ValueError("a header value or host holds a CR, LF or NUL")
    return head.encode("latin-1")


def _check_target(method: str, path: str) -> None:
    if not (method.isascii() and method.isalpha()):
        raise ValueError(f"not a method: {method!r}")
    if _PATH.fullmatch(path) is None:
        raise ValueError(f"not a request path: {path[:200]!r}")
    if len(_targets_seen) < _NAMES_MAX:
        _targets_seen.add((method, path))


def _check_name(name: str) -> None:
    if _TOKEN.fullmatch(name) is None or name.lower() in _OURS:
        raise ValueError(f"not a header name that a request may carry: {name[:100]!r}")
    if len(_names_seen) < _NAMES_MAX:
        _names_seen.add(name)
