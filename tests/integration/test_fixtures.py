"""The database that tests get."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest


@pytest.mark.parametrize("count", [5, 2500])
def test_each_test_gets_a_clean_database(server, database_url, count):
    name = unquote(urlsplit(database_url).path[1:])
    assert server.rows("SELECT COUNT(*) FROM celers_queues", database=name) == [(0,)]
    assert server.rows("SHOW TABLES LIKE 'another'", database=name) == []
    assert server.rows("SELECT COUNT(*) > 3 FROM celers_migrations", database=name) == [(1,)]
    names = ", ".join(f"('{number}', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))" for number in range(count))
    server.rows(f"INSERT INTO celers_queues (name, created_at, updated_at) VALUES {names}", database=name)
    server.rows("CREATE TABLE another (id INT PRIMARY KEY)", database=name)


def test_the_empty_database_is_empty(server, empty_database_url):
    assert server.rows("SHOW TABLES", database=unquote(urlsplit(empty_database_url).path[1:])) == []
