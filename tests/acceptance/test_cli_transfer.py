"""`celers export`, `celers import` and `celers dlq export` as people and scripts use them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from uuid import UUID, uuid4

import pytest

from celers import DbTaskState, MysqlBroker, SerializedTask
from tests.acceptance.test_cli import celers, printed  # noqa: F401 - the fixture
from tests.integration.test_dlq_operations import bury


def environment(url):
    return {**os.environ, "CELERS_URL": url}


@pytest.fixture
def filled(database_url):
    """A queue with five tasks of two states."""
    with MysqlBroker(database_url, heartbeat=False) as broker:
        ids = broker.enqueue_batch([SerializedTask.new("ü", bytes([n, 255])) for n in range(5)])
        broker.cancel(ids[1])
        yield broker


@pytest.mark.spec("IMPEX-01", "IMPEX-02", "IMPEX-03")
@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.jsonl.gz"])
def test_out_of_one_queue_and_into_another(celers, database_url, filled, tmp_path, name):  # noqa: F811
    url = {"CELERS_URL": database_url}
    done = celers("export", name, **url)
    assert (done.returncode, done.stdout) == (0, f"exported 5 tasks to {name}\n"), done.stderr
    assert done.stderr == ""
    path = tmp_path / name
    data = path.read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0]["celers_export"].items() >= {"what": "tasks", "version": 1, "queue_name": "default"}.items()
    assert lines[1:-1] == list(filled.iter_export_tasks())
    assert lines[-1] == {"celers_export_end": {"count": 5}}
    assert sorted(os.listdir(tmp_path)) == [name]

    refused = celers("import", name, **url)
    assert refused.returncode == 1
    assert "stored already" in refused.stderr
    again = celers("import", name, "--skip-existing", **url)
    assert (again.returncode, again.stdout) == (0, "imported 0 tasks into queue 'default'; 5 were there before\n")
    filled.purge_all()
    done = celers("import", name, "-q", "mine", "--json", **url)
    assert printed(done) == {"imported": 5, "skipped": 0}
    mine = list(filled.for_queue("mine").iter_export_tasks())
    assert [{**value, "queue_name": "default"} for value in mine] == lines[1:-1]


@pytest.mark.spec("IMPEX-01", "IMPEX-02")
def test_pipes(database_url, filled):
    command = [sys.executable, "-m", "celers"]
    found = subprocess.run([*command, "export", "--live"], env=environment(database_url), capture_output=True)
    assert (found.returncode, found.stderr) == (0, b"")
    assert len(found.stdout.splitlines()) == 7
    filled.purge_all()
    done = subprocess.run([*command, "import"], env=environment(database_url), input=found.stdout, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"imported 5 tasks into queue 'default'\n")
    # One that stops half-way is told from a whole one.
    filled.purge_all()
    cut = b"".join(found.stdout.splitlines(keepends=True)[:-2])
    done = subprocess.run([*command, "import"], env=environment(database_url), input=cut, capture_output=True)
    assert done.returncode == 1
    assert done.stderr.startswith(b"celers: standard input: the export is not complete")
    assert filled.queue_size() == 0
    # What export_tasks() returns is read as well.
    array = json.dumps([json.loads(line) for line in found.stdout.splitlines()[1:-1]]).encode()
    done = subprocess.run([*command, "import", "-"], env=environment(database_url), input=array, capture_output=True)
    assert done.returncode == 0
    assert filled.get_statistics().total == 5


@pytest.mark.spec("IMPEX-01")
def test_some_of_the_tasks(celers, database_url, filled, tmp_path):  # noqa: F811
    url = {"CELERS_URL": database_url}
    assert printed(celers("export", "a", "--state", "cancelled", "--json", **url)) == {"exported": 1, "file": "a"}
    assert printed(celers("export", "b", "--limit", "3", "--json", **url)) == {"exported": 3, "file": "b"}
    assert json.loads((tmp_path / "b").read_text().splitlines()[-1]) == {"celers_export_end": {"count": 3}}
    for arguments in (["--limit", "0"], ["--limit", "x"], ["--state", "odd"]):
        assert celers("export", *arguments, **url).returncode == 2


@pytest.mark.spec("IMPEX-01")
def test_a_file_is_replaced_only_when_it_is_meant(celers, database_url, filled, tmp_path):  # noqa: F811
    url = {"CELERS_URL": database_url}
    (tmp_path / "old").write_text("old")
    unasked = celers("export", "old", **url)
    assert unasked.returncode == 2
    assert "--yes" in unasked.stderr
    # A failed export leaves the old file as it was, and nothing beside it.
    (row,) = filled.list_tasks(DbTaskState.CANCELLED, 1, 0)
    with filled.with_transaction() as tx:
        tx.execute("UPDATE celers_tasks SET payload_encoding = 'odd' WHERE id = %s", (row.id.bytes,))
    failed = celers("export", "old", "--yes", **url)
    assert failed.returncode == 1
    assert str(row.id) in failed.stderr
    assert (tmp_path / "old").read_text() == "old"
    assert os.listdir(tmp_path) == ["old"]
    assert celers("export", "old", "-y", "--state", "pending", **url).returncode == 0
    assert (tmp_path / "old").read_text().startswith('{"celers_export"')
    assert celers("export", "missing/file", **url).returncode == 1


@pytest.mark.spec("IMPEX-02", "DEF-80")
def test_bad_files(celers, database_url, filled, tmp_path):  # noqa: F811
    url = {"CELERS_URL": database_url}
    good = next(iter(filled.iter_export_tasks()))
    good["id"] = str(uuid4())
    for content, says in (
        (json.dumps({**good, "state": "odd"}), "line 2: the state 'odd' is unknown; nothing was imported"),
        (json.dumps(good), f"line 2: the id {good['id']} was there before"),
        ("{", "line 2"),
        ("\xff", "line 2"),
    ):
        (tmp_path / "bad").write_bytes(json.dumps(good).encode() + b"\n" + content.encode("latin-1"))
        done = celers("import", "bad", **url)
        assert done.returncode == 1, content
        assert done.stderr.startswith("celers: bad: "), done.stderr
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1
    (tmp_path / "bad.gz").write_bytes(gzip.compress(json.dumps(good).encode())[:-9])
    (tmp_path / "odd.gz").write_bytes(b"no gzip")
    for name in ("bad.gz", "odd.gz"):
        assert celers("import", name, **url).returncode == 1
    for name in ("missing", "."):
        done = celers("import", name, **url)
        assert done.returncode == 2
        assert "cannot read" in done.stderr
    bury(filled.for_queue("graves"), "dead")
    assert celers("dlq", "export", "dead", "-q", "graves", **url).returncode == 0
    assert "'dead letters' and not tasks" in celers("import", "dead", **url).stderr
    assert filled.get_task(good["id"]) is None


@pytest.mark.spec("IMPEX-04", "DLQ-09")
def test_dead_letters(celers, database_url, filled, tmp_path):  # noqa: F811
    url = {"CELERS_URL": database_url}
    filled.purge_all()
    bury(filled, *"abc")
    done = celers("dlq", "export", "letters", **url)
    assert (done.returncode, done.stdout) == (0, "exported 3 dead letters to letters\n")
    lines = [json.loads(line) for line in (tmp_path / "letters").read_text().splitlines()]
    assert lines[1:-1] == list(filled.iter_export_dlq())
    assert len(celers("dlq", "export", "--limit", "1", **url).stdout.splitlines()) == 3
    assert len(celers("dlq", "export", "-q", "other", "--live", **url).stdout.splitlines()) == 2
    assert UUID(lines[1]["task_id"])
