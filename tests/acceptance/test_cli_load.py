"""`celers load` as people and scripts use it."""

from __future__ import annotations

import pytest

from celers import MysqlBroker
from tests.acceptance.test_cli import celers, printed  # noqa: F401 - the fixture


@pytest.mark.spec("OPS-01", "OPS-02")
def test_a_load_is_made_and_deleted(celers, database_url):  # noqa: F811
    url = {"CELERS_URL": database_url}
    made = celers("load", "generate", "12", "--size", "5", "--priority", "1", "3", **url)
    assert made.returncode == 0, made.stderr
    mark = made.stdout.split()[-1]
    assert made.stdout == f"generated 12 tasks of load test {mark}\n"
    other = printed(celers("load", "generate", "6001", "--name", "a.b", "--json", **url))
    assert other["generated"] == 6001
    with MysqlBroker(database_url, heartbeat=False) as broker:
        assert broker.queue_size() == 6013
        assert {task.priority for task in broker.list_tasks(None, 10_000, 6001)} <= {1, 2, 3}
        for arguments in ([], [mark, "--all"], [mark], ["x", "-y"]):
            assert celers("load", "delete", *arguments, **url).returncode == 2
        assert celers("load", "delete", mark, "-y", **url).stdout == "deleted 12 tasks\n"
        assert printed(celers("load", "delete", "--all", "--yes", "--json", **url)) == {"deleted": 6001}
        assert broker.queue_size() == 0
    for arguments in (["-1"], ["1000001"], ["1", "--size", "-1"], ["1", "--priority", "2", "1"], ["x"]):
        assert celers("load", "generate", *arguments, **url).returncode == 2
    assert printed(celers("load", "generate", "0", "--json", **url))["generated"] == 0
