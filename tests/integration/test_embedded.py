from __future__ import annotations


def test_server_answers(server):
    assert server.rows("SELECT 1") == [(1,)]

def test_empty(server, empty_database_url):
    assert server.rows("SELECT 1") == [(1,)]
    print(empty_database_url, server.version)

def test_own(own_server):
    assert own_server.status().running
