"""The step that gave keys a role: who could do everything is an owner, and going back leaves nobody more than they had."""

from sqlalchemy import text

from billing.db import Database

OLD = """INSERT INTO tenant (id, name, state, currency, timezone, created_us) VALUES ('acme', 'acme', 'active', 'USD', 'UTC', 1);
INSERT INTO api_key (id, kind, tenant_id, name, digest, hint, created_us) VALUES
 ('k1', 'tenant', 'acme', '', '1', 'x', 7), ('k2', 'admin', NULL, '', '2', 'x', 5)"""
NEW = """INSERT INTO api_key (id, kind, tenant_id, name, digest, hint, created_us, role) VALUES ('k3', 'staff', 'acme', '', '3', 'x', 7, 'member'),
 ('k4', 'admin', NULL, '', '4', 'x', 5, 'viewer')"""


def run(db: Database, script: str) -> None:
    with db.write() as session:
        for statement in script.split(";\n"):
            session.connection().execute(text(statement))


def rows(db: Database, query: str) -> list[tuple[object, ...]]:
    with db.read() as session:
        return [tuple(row) for row in session.connection().execute(text(query))]


def test_operators_so_far_are_owners(empty_db: Database) -> None:
    empty_db.migrate("0013")
    run(empty_db, OLD)
    empty_db.migrate()
    assert rows(empty_db, "SELECT id, role FROM api_key ORDER BY id") == [("k1", None), ("k2", "owner")]


def test_going_back_revokes_the_keys_that_could_do_less(empty_db: Database) -> None:
    empty_db.migrate("0013")
    run(empty_db, OLD)
    empty_db.migrate()
    run(empty_db, NEW)
    empty_db.unmigrate("0013")
    assert rows(empty_db, "SELECT id FROM api_key WHERE revoked_us IS NULL ORDER BY id") == [("k1",), ("k2",)]
