"""The embedded server, with its processes killed at every point."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import MySQLdb
import pytest

import celers
from celers.db.driver import connect
from celers.db.url import parse_url
from celers.embedded import EmbeddedServer, ensure, find_server
from celers.embedded.install import MARKER
from celers.embedded.paths import SOCKET_NAME, read_json, write_json
from celers.errors import BrokerConnectionError, ConfigurationError
from tests.fixtures.server import database_at, need_server, private_directory, running
from tests.fixtures.waiting import until

SOURCE = str(Path(celers.__file__).parent.parent)

# Started by another process: prints the process number of the server.
STARTER = """
import sys
from celers.embedded import EmbeddedServer
server = EmbeddedServer(sys.argv[1], idle_secs=120)
sys.stdin.readline()
server.ensure_started()
print(server.status().server_pid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for embedded servers; they end when it is removed."""
    need_server()
    with private_directory() as directory:
        yield directory


@contextlib.contextmanager
def starter(directory: Path, **settings) -> Iterator[subprocess.Popen]:
    """A process that starts a server when it gets a line, and ends on the next."""
    environment = {**os.environ, "PYTHONPATH": SOURCE, **settings.pop("environment", {})}
    with subprocess.Popen(
        [settings.pop("python", sys.executable), "-c", STARTER, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        env=environment,
        start_new_session=True,
        **settings,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def go(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def pids(server: EmbeddedServer) -> tuple[int, int]:
    status = server.status()
    assert status.running
    return status.server_pid, status.supervisor_pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """True for a process that runs; one that ended and was not collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def store(server: EmbeddedServer, value: int) -> None:
    database = database_at(server.ensure_started())
    database.rows("CREATE TABLE IF NOT EXISTS kept (value INT PRIMARY KEY)", database="celers")
    database.rows("INSERT INTO kept VALUES (%s)", (value,), database="celers")


def stored(server: EmbeddedServer) -> list[int]:
    return [
        value
        for (value,) in database_at(server.ensure_started()).rows(
            "SELECT value FROM celers.kept ORDER BY value"
        )
    ]


@pytest.mark.spec("TEST-02")
def test_it_is_private_and_durable(own_server):
    socket = Path(own_server.ensure_started())
    database = database_at(str(socket))
    ((networking, port, durable, binlog, charset),) = database.rows(
        "SELECT @@skip_networking, @@port, @@innodb_flush_log_at_trx_commit, @@log_bin,"
        " @@character_set_server"
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


@pytest.mark.spec("TEST-03")
def test_many_starts_at_once_give_one_server(place):
    with contextlib.ExitStack() as stack:
        starters = [stack.enter_context(starter(place / "server")) for _ in range(5)]
        for process in starters:
            go(process)
        found = {process.stdout.readline() for process in starters}
        assert len(found) == 1
        server = EmbeddedServer(place / "server")
        assert str(pids(server)[0]) in found.pop()
        assert server.stop()


def test_it_outlives_its_starter(place):
    server = EmbeddedServer(place / "server", idle_secs=120)
    with starter(server.directory) as process:
        go(process)
        pid = int(process.stdout.readline())
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert alive(pid)
    server.ensure_started()
    assert server.status().server_pid == pid
    server.stop()
    assert not alive(pid)


@pytest.mark.spec("TEST-05")
def test_a_killed_server_is_started_again_with_its_data(own_server):
    store(own_server, 1)
    pid, supervisor = pids(own_server)
    kill(pid)
    assert stored(own_server) == [1]
    assert pids(own_server)[0] != pid
    until(lambda: not alive(supervisor))


@pytest.mark.spec("TEST-05")
def test_a_server_whose_supervisor_was_killed_is_taken_over(own_server):
    store(own_server, 1)
    pid, supervisor = pids(own_server)
    client = database_at(own_server.ensure_started()).connect()
    kill(supervisor)
    assert alive(pid)
    assert not own_server.status().running
    assert stored(own_server) == [1]
    assert pids(own_server) == (pid, own_server.status().supervisor_pid)
    client.query("SELECT 1")  # did not notice anything
    client.close()
    assert own_server.stop()
    assert not alive(pid)
    assert stored(own_server) == [1]


def test_a_server_without_supervisor_can_be_stopped(own_server):
    pid, supervisor = pids(own_server)
    kill(supervisor)
    assert own_server.stop()
    assert not alive(pid)
    assert not own_server.stop()


def test_a_taken_over_server_that_dies_is_started_again(own_server):
    store(own_server, 1)
    pid, supervisor = pids(own_server)
    kill(supervisor)
    own_server.ensure_started()
    kill(pid)
    assert stored(own_server) == [1]
    assert pids(own_server)[0] != pid


@pytest.mark.spec("TEST-05")
def test_leftovers_of_a_power_cut_do_not_matter(own_server):
    store(own_server, 1)
    socket = Path(own_server.ensure_started())
    state = (own_server.directory / "state.json").read_bytes()
    for pid in reversed(pids(own_server)):
        kill(pid)
    # The numbers in the files belong to living processes by now, here to this one.
    socket.parent.mkdir(exist_ok=True, mode=0o700)
    (own_server.directory / "state.json").write_bytes(
        state.replace(b'"server_pid": ', b'"server_pid": 1, "_": ')
    )
    (socket.parent / f"{SOCKET_NAME}.lock").write_text(f"{os.getppid()}\n")
    (socket.parent / "server.pid").write_text(f"{os.getpid()}\n")
    assert stored(own_server) == [1]


@pytest.mark.parametrize("text", ["", "{", '{"control": "/nowhere/at/all"}', "[]", '{"control": 5}'])
def test_a_damaged_state_file_does_not_matter(place, text):
    with running(place / "server") as server:
        server.stop()
        (server.directory / "state.json").write_text(text)
        server.ensure_started()
        assert server.status().running


def test_an_interrupted_installation_is_done_again(place):
    server = EmbeddedServer(place / "server", idle_secs=120)
    with starter(server.directory) as process:
        go(process)
        until((server.directory / "data.new").exists)
        supervisor = read_json(server.directory / "state.json")["supervisor_pid"]
        os.killpg(os.getpgid(supervisor), signal.SIGKILL)
        process.kill()
    with running(server.directory):
        assert not (server.directory / "data.new").exists()
        store(server, 1)


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


def test_a_removed_directory_ends_it(place):
    server = EmbeddedServer(place / "server", idle_secs=1.5)
    server.ensure_started()
    (pid, supervisor), socket = pids(server), Path(server.ensure_started())
    client = database_at(str(socket)).connect()  # not for being idle
    shutil.rmtree(server.directory)
    until(lambda: not alive(pid) and not alive(supervisor))
    assert not socket.parent.exists()
    client.close()


def test_a_removed_socket_ends_it(place):
    with running(place / "server", idle_secs=2) as server:
        store(server, 1)
        pid, _ = pids(server)
        Path(server.ensure_started()).unlink()
        until(lambda: not alive(pid))
        assert stored(server) == [1]


def test_further_options_reach_the_server(place):
    options = ["--log-bin=changes", "--binlog-format=ROW", "--server-id=7"]
    with running(place / "server", options=options) as server:
        assert database_at(server.ensure_started()).rows("SELECT @@log_bin, @@server_id") == [(1, 7)]


def test_a_failed_start_tells_why(place):
    server = EmbeddedServer(place / "server", options=["--no-such-option"])
    with pytest.raises(BrokerConnectionError, match="no-such-option"):
        server.ensure_started()
    assert not server.status().running
    with running(server.directory) as better:
        assert better.status().running


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


def test_a_killed_connection_of_the_supervisor_is_renewed(own_server):
    database = database_at(own_server.ensure_started())
    own_server.status()
    for (thread,) in database.rows(
        "SELECT id FROM information_schema.processlist WHERE command='Sleep' AND id <> CONNECTION_ID()"
    ):
        with contextlib.suppress(MySQLdb.OperationalError):
            database.rows(f"KILL {thread}")
    assert (
        EmbeddedServer(own_server.directory, database="later").ensure_started() == own_server.ensure_started()
    )
    assert own_server.status().running


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
