"""Each test that asks for `db` runs twice: on SQLite, and on a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.db import Database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def empty_db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without a schema."""
    database = Database(request.getfixturevalue("postgres_url") if request.param == "postgresql" else f"sqlite:///{tmp_path / 'weir.db'}")
    yield database
    database.close()


@pytest.fixture
def db(empty_db: Database) -> Database:
    """A migrated, empty database."""
    empty_db.migrate()
    return empty_db
