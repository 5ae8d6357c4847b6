"""The embedded server with its processes killed and its files damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

import MySQLdb
import pytest

from celers.embedded import EmbeddedServer
from celers.embedded.paths import SOCKET_NAME, read_json
from celers.errors import BrokerConnectionError
from tests.fixtures.embedded import alive, go, kill, pids, starter, store, stored
from tests.fixtures.server import database_at, running
from tests.fixtures.waiting import until


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
    (own_server.directory / "state.json").write_bytes(state.replace(b'"server_pid": ', b'"server_pid": 1, "_": '))
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


def remove(directory: Path) -> bool:
    """Remove a directory in which a server still makes files."""
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()


def test_a_removed_directory_ends_it(place):
    server = EmbeddedServer(place / "server", idle_secs=1.5)
    server.ensure_started()
    (pid, supervisor), socket = pids(server), Path(server.ensure_started())
    client = database_at(str(socket)).connect()  # not for being idle
    until(lambda: remove(server.directory))
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


def test_a_failed_start_tells_why(place):
    server = EmbeddedServer(place / "server", options=["--no-such-option"])
    with pytest.raises(BrokerConnectionError, match="no-such-option"):
        server.ensure_started()
    assert not server.status().running
    with running(server.directory) as better:
        assert better.status().running


def test_a_killed_connection_of_the_supervisor_is_renewed(own_server):
    database = database_at(own_server.ensure_started())
    own_server.status()
    for (thread,) in database.rows(
        "SELECT id FROM information_schema.processlist WHERE command='Sleep' AND id <> CONNECTION_ID()"
    ):
        with contextlib.suppress(MySQLdb.OperationalError):
            database.rows(f"KILL {thread}")
    assert EmbeddedServer(own_server.directory, database="later").ensure_started() == own_server.ensure_started()
    assert own_server.status().running
