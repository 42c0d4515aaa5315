"""What is said of model servers: kept as long as it says something, and told to the gateways."""

import pytest

from billing.db import Database
from billing.errors import Invalid
from billing.operations import servers
from billing.servers.store import Server
from billing.tenants.store import changes_since
from tests.clock import START_US

A, B = "http://10.0.0.1/v1", "http://10.0.0.2/v1"


def test_a_server_is_drained_weighed_and_forgotten(db: Database) -> None:
    servers.change_servers(db, "gpu", [A, B], draining=True, now_us=START_US)
    servers.change_servers(db, "gpu", [A], weight=5, now_us=START_US)
    assert servers.list_servers(db) == [Server(backend="gpu", url=A, draining=True, weight=5), Server(backend="gpu", url=B, draining=True)]
    servers.change_servers(db, "gpu", [A, B], draining=False, now_us=START_US)
    assert servers.list_servers(db) == [Server(backend="gpu", url=A, weight=5)]
    servers.change_servers(db, "gpu", [A], weight=None, now_us=START_US)
    assert servers.list_servers(db) == []
    with db.read() as session:
        assert [change.tenant_id for change in changes_since(session, 0)] == [None] * 4


def test_what_says_nothing_or_too_much_is_refused(db: Database) -> None:
    with pytest.raises(Invalid, match="nothing to change"):
        servers.change_servers(db, "gpu", [A], now_us=START_US)
    for weight in (0, 1001):
        with pytest.raises(Invalid, match="out of range"):
            servers.change_servers(db, "gpu", [A], weight=weight, now_us=START_US)
