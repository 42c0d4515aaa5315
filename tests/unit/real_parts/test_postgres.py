"""The PostgreSQL of the tests is a real one, and each test gets a database of its own."""

import psycopg


def test_is_a_real_postgres(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        (version,) = connection.execute("SELECT version()").fetchone() or ("",)
        connection.execute("CREATE TABLE kept (n int)")
    assert version.startswith("PostgreSQL 1")


def test_is_empty_for_the_next_test(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)
