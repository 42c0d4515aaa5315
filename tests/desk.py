"""The admin's and finance's HTTP surface over real books on SQLite, without the rest of the gateway."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from billing.db import Database
from billing.operations import keys, plans, rates, tenants
from billing.plans.terms import PlanTerms
from billing.tenants.keys import KeyHasher
from gateway.api import admin, finance, tenant
from gateway.config import Settings
from tests.clock import ManualClock


@cache
def migrated() -> bytes:
    """An empty, migrated SQLite database, made once for all tests of the process."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weir.db"
        database = Database(f"sqlite:///{path}")
        database.migrate()
        database.close()
        return path.read_bytes()


class Wakes:
    """Counts how often the hot path was told of a change."""

    def __init__(self) -> None:
        self.count = 0

    def wake(self) -> None:
        self.count += 1


class AdminApi:
    """An admin at the API, and the books behind it."""

    def __init__(self, path: Path) -> None:
        self.clock = ManualClock()
        (path / "weir.db").write_bytes(migrated())
        self.database = Database(f"sqlite:///{path / 'weir.db'}")
        self.hasher = KeyHasher(b"0123456789abcdef")
        self.changes = Wakes()
        self.secret = keys.issue_key(self.database, self.hasher, kind="admin", name="test", now_us=self.clock.now_us()).secret
        self.app = FastAPI()
        self.services = SimpleNamespace(database=self.database, hasher=self.hasher, clock=self.clock, changes=self.changes, settings=Settings(), sign_in=None)
        self.app.state.services = self.services
        self.app.include_router(admin.build_router())
        self.app.include_router(finance.build_router())
        self.app.include_router(tenant.build_router())
        self.http = TestClient(self.app, headers={"Authorization": f"Bearer {self.secret}"}, raise_server_exceptions=False)

    def plan(self, plan: str = "pro", **terms: Any) -> None:
        plans.set_plan(self.database, PlanTerms(plan=plan, **{"allowance_ncr": 1000 * 10**9, **terms}), self.clock.now_us())

    def tenant(self, tenant: str = "acme", plan: str = "pro") -> None:
        """Create a tenant, with its plan where that is missing."""
        if plan not in {version.terms.plan for version in plans.list_plans(self.database)}:
            self.plan(plan)
        tenants.create_tenant(self.database, id=tenant, name=tenant, plan=plan, now_us=self.clock.now_us())

    def rate(self, model: str = "m") -> None:
        rates.set_rate(self.database, model=model, prices={"input": 500, "output": 1500}, now_us=self.clock.now_us())


@contextmanager
def open_admin_api(path: Path) -> Iterator[AdminApi]:
    """Open the API over an empty database in `path`."""
    api = AdminApi(path)
    try:
        with api.http:
            yield api
    finally:
        api.database.close()


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is a problem (RFC 9457) of this status and code, and return it."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:weir:problem:{code}")
    assert body["title"]
    assert body["detail"]
    return body


def fields(body: dict[str, Any]) -> list[str]:
    """List the fields that a problem names."""
    return [fault["field"] for fault in body["errors"]]
