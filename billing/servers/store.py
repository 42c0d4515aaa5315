"""Queries over what was said of model servers. Takes a session, never commits."""

import msgspec
from sqlmodel import Session, col, select

from billing.servers.table import ServerRow


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What was said of a server: whether it is drained, and its weight (None: the configured one)."""

    backend: str
    url: str
    draining: bool = False
    weight: int | None = None


def all_servers(session: Session) -> list[Server]:
    """Return every server of which something was said, by backend and URL."""
    rows = session.exec(select(ServerRow).order_by(col(ServerRow.backend), col(ServerRow.url)))
    return [Server(backend=row.backend, url=row.url, draining=row.draining, weight=row.weight) for row in rows]


def get_server(session: Session, backend: str, url: str) -> Server:
    """Return what was said of a server, which may be nothing."""
    row = session.get(ServerRow, (backend, url), populate_existing=True)
    return Server(backend=backend, url=url) if row is None else Server(backend=backend, url=url, draining=row.draining, weight=row.weight)


def set_server(session: Session, server: Server) -> None:
    """Write what is said of a server; where that is nothing, nothing is kept. The caller holds the admin lock."""
    if server == Server(backend=server.backend, url=server.url):
        if (row := session.get(ServerRow, (server.backend, server.url))) is not None:
            session.delete(row)
    else:
        session.merge(ServerRow(**msgspec.structs.asdict(server)))
    session.flush()
