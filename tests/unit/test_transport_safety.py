"""Both transports over TLS, and the heads that neither may write."""

import pytest

from backends.errors import Unreachable
from backends.transport.seam import Exchange, Transport
from tests.raw_server import EVERY, RawServer, always, answer, make_tls, once, over, read_all

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory):
    return make_tls(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def stranger(tls):
    """A server's context that no client here trusts."""
    return tls[0]


@over(*EVERY)
async def test_tls_is_verified_and_reused(transport: Transport, tls) -> None:
    async with RawServer(always(CHUNKED), tls=tls[0]) as server:
        for _ in range(3):
            assert await read_all(await transport.open(server.post(bytes(300_000)))) == b"hello, world"
        assert server.connections == 1


@over(*EVERY)
async def test_an_unknown_certificate_is_unreachable(transport: Transport, stranger) -> None:
    async with RawServer(always(answer()), tls=stranger) as server:
        with pytest.raises(Unreachable, match=r"(?i)certificate"):
            await transport.open(server.get())


@pytest.mark.parametrize(
    "spoiled",
    [
        {"headers": (("x-a", "b\r\nx-evil: 1"),)},
        {"headers": (("x-a", "b\nc"),)},
        {"headers": (("x-a", "b\0"),)},
        {"headers": (("x-a\r\nx-evil", "1"),)},
        {"headers": (("x a", "1"),)},
        {"headers": (("", "1"),)},
        {"own_headers": (("x-a", "b\r\nx-evil: 1"),)},
        {"own_headers": (("x-a\nx-evil", "1"),)},
        {"own_headers": (("Host", "other"),)},
        {"own_headers": (("x-a", "\u4f60"),)},
        {"headers": (("Content-Length", "0"),)},
        {"headers": (("transfer-encoding", "chunked"),)},
        {"headers": (("x-a", "\u4f60"),)},
        {"path": "/v1 HTTP/1.1\r\nx-evil: 1\r\n\r\n"},
        {"path": "/a b"},
        {"path": "http://other/"},
        {"method": "GET /x"},
    ],
)
@over(*EVERY)
async def test_a_head_that_would_inject_is_refused_before_anything_is_sent(transport: Transport, spoiled: dict) -> None:
    async with RawServer(once(answer())) as server:
        whole = {"method": "POST", "path": "/v1", "headers": (), "origin": server.origin, "body": (b"{}",), **spoiled}
        with pytest.raises(ValueError):  # noqa: PT011  a UnicodeEncodeError is one as well
            await transport.open(Exchange(**whole))
        assert server.connections == 0
