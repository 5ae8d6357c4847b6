"""The embedded server as it shall be."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from celers.db.driver import connect
from celers.db.url import parse_url
from celers.embedded import EmbeddedServer, ensure, find_server
from celers.embedded.install import MARKER
from celers.embedded.paths import read_json, write_json
from celers.errors import ConfigurationError
from tests.fixtures.embedded import SOURCE, alive, go, pids, starter, store, stored
from tests.fixtures.server import database_at, need_server, private_directory, running
from tests.fixtures.waiting import until


@pytest.mark.spec("TEST-02")
def test_it_is_private_and_durable(own_server):
    socket = Path(own_server.ensure_started())
    database = database_at(str(socket))
    ((networking, port, durable, binlog, charset),) = database.rows(
        "SELECT @@skip_networking, @@port, @@innodb_flush_log_at_trx_commit, @@log_bin, @@character_set_server"
    )
    assert (networking, port, durable, binlog, charset) == (1, 0, 1, 0, "utf8mb4")
    assert len(os.fsencode(socket)) <= 103
    for directory in (own_server.directory, socket.parent, socket.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert directory.stat().st_uid == os.geteuid()
    accounts = database.rows(
        "SELECT user, host FROM mysql.user WHERE user NOT LIKE 'mysql%%' AND user <> 'mariadb.sys'"
    )
    assert accounts == [("root", "localhost")]
    assert ("celers",) in database.rows("SHOW DATABASES")


def test_a_url_starts_it_and_makes_the_database(place):
    options = parse_url(f"mysql+embedded://{place}/server?database=a+b&idle=120".replace("+b", "%20b"))
    try:
        plain = ensure(options)
        assert plain.embedded_dir is None
        assert ensure(plain) is plain
        assert (plain.user, plain.database) == ("root", "a b")
        connection = connect(options)
        assert list(connection.run(b"SELECT DATABASE()", 1)[0].rows) == [(b"a b",)]
        connection.close()
        again = EmbeddedServer(place / "server", database="other`one", idle_secs=120)
        assert again.ensure_started() == plain.unix_socket
        assert parse_url(again.url).database == "other`one"
        assert ("other`one",) in database_at(plain.unix_socket).rows("SHOW DATABASES")
    finally:
        EmbeddedServer(options.embedded_dir).stop()


def test_stop_can_be_repeated(own_server):
    assert own_server.stop()
    assert not own_server.stop()
    assert not own_server.status().running
    assert EmbeddedServer(own_server.directory / "never").stop() is False


def test_it_ends_when_nobody_is_connected(place):
    with running(place / "server", idle_secs=1) as server:
        client = database_at(server.ensure_started()).connect()
        (pid, _), started = pids(server), server.status().started_at
        # Held by a connection for longer than the idle time of the server, by the server's own clock.
        client.query("SELECT SLEEP(2.5)")
        client.store_result()
        assert alive(pid)
        client.close()
        until(lambda: not server.status().running, 15)
        assert not alive(pid)
        server.ensure_started()
        assert server.status().started_at > started


@pytest.mark.parametrize("name", ["a long path " + "x" * 150, "blank 'quote' \"two\" $HOME;#%41 ü", "-dash"])
def test_unusual_paths(place, name):
    with running(place / name / "server") as server:
        store(server, 1)
        assert server.directory == Path(parse_url(server.url).embedded_dir)
        socket = Path(server.ensure_started())
        server.stop()
        assert not socket.exists()
        assert stored(server) == [1]


def test_a_symbolic_link_names_the_same_server(place):
    (place / "link").symlink_to(place / "server")
    with running(place / "server") as server:
        assert EmbeddedServer(place / "link").ensure_started() == server.ensure_started()


def test_two_at_once_do_not_meet(place):
    with running(place / "one") as one, running(place / "two") as two:
        store(one, 1)
        store(two, 2)
        assert one.ensure_started() != two.ensure_started()
        assert (stored(one), stored(two)) == ([1], [2])
        one.stop()
        assert stored(two) == [2]


def usable_python(environment: dict[str, str], settings: dict) -> str:
    """An interpreter that another user may run: this one may lie in a private home directory."""
    command = "import celers.db.driver"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [python, "-c", command],
                env={**os.environ, **environment},
                cwd="/",
                capture_output=True,
                **settings,
            )
            if done.returncode == 0:
                return python
    pytest.skip("no interpreter with celers that an ordinary user may run")


def test_as_an_ordinary_user():
    need_server()
    if os.geteuid() != 0:
        pytest.skip("this is an ordinary user already")
    nobody = pwd.getpwnam("nobody")
    with private_directory("/tmp") as place:
        os.chown(place, nobody.pw_uid, nobody.pw_gid)
        settings = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        paths = [SOURCE, *(path for path in sys.path if path.endswith("site-packages"))]
        environment = {"HOME": str(place), "PYTHONPATH": os.pathsep.join(paths)}
        python = usable_python(environment, settings)
        with starter(place / "server", environment=environment, python=python, **settings) as process:
            go(process)
            pid = int(process.stdout.readline())
            assert Path(f"/proc/{pid}").stat().st_uid == nobody.pw_uid
        server = EmbeddedServer(place / "server")
        assert server.stop()  # root may, others cannot enter the directory
        assert not alive(pid)
        with pytest.raises(ConfigurationError, match=f"belongs to user {nobody.pw_uid}"):
            server.ensure_started()


def test_further_options_reach_the_server(place):
    options = ["--log-bin=changes", "--binlog-format=ROW", "--server-id=7"]
    with running(place / "server", options=options) as server:
        assert database_at(server.ensure_started()).rows("SELECT @@log_bin, @@server_id") == [(1, 7)]


@pytest.mark.parametrize("change", [{"series": "5.5"}, {"flavour": "other"}])
def test_another_server_version_is_refused(own_server, change):
    store(own_server, 1)
    own_server.stop()
    marker = own_server.directory / "data" / MARKER
    truth = read_json(marker)
    write_json(marker, {**truth, **change})
    with pytest.raises(ConfigurationError, match=r"was made by .*CELERS_MYSQLD"):
        own_server.ensure_started()
    write_json(marker, truth)
    assert stored(own_server) == [1]


def test_a_directory_with_other_things_is_refused(place):
    (place / "server").mkdir()
    (place / "server" / "photo.jpg").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="other things"):
        EmbeddedServer(place / "server").ensure_started()
    (place / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="cannot use"):
        EmbeddedServer(place / "file").ensure_started()
    assert sorted(path.name for path in place.rglob("*")) == ["file", "photo.jpg", "server"]


@pytest.mark.parametrize("command", ["mariadbd", "mysqld9"])
def test_both_flavours(place, monkeypatch, command):
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed")
    monkeypatch.setenv("CELERS_MYSQLD", command)
    assert find_server().flavour == ("mysql" if command == "mysqld9" else "mariadb")
    with running(place / "server") as server:
        store(server, 1)
        server.stop()
        assert stored(server) == [1]
        monkeypatch.setenv("CELERS_MYSQLD", {"mariadbd": "mysqld9", "mysqld9": "mariadbd"}[command])
        if shutil.which(os.environ["CELERS_MYSQLD"]):
            server.stop()
            with pytest.raises(ConfigurationError, match="was made by"):
                server.ensure_started()
