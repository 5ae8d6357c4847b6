"""The parts of the embedded server that need no server."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers.db.url import parse_url
from celers.embedded import EmbeddedServer, binary, control, default_directory, find_server, paths
from celers.embedded.binary import ServerBinary, parse_version
from celers.embedded.install import MARKER, check_data, explain_log, server_arguments
from celers.embedded.paths import Lock, prepare_directory, read_json, runtime_directory, write_json
from celers.errors import ConfigurationError

MARIADB = ServerBinary(Path("/usr/sbin/mariadbd"), "mariadb", (10, 11, 6))
MYSQL = ServerBinary(Path("/usr/local/bin/mysqld9"), "mysql", (9, 7, 4), defaults_chosen=True)


def program(path: Path, version: str, extra: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n# {extra}\necho '{path} {version}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare_machine(monkeypatch, tmp_path):
    """No server program anywhere but in the directory that is returned."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CELERS_MYSQLD", raising=False)
    monkeypatch.setattr(binary, "_DIRECTORIES", ())
    return tmp_path / "bin"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "mariadbd  Ver 10.11.6-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)",
            ("mariadb", (10, 11, 6)),
        ),
        ("mysqld  Ver 11.8.3-MariaDB from Debian on x86_64", ("mariadb", (11, 8, 3))),
        ("/usr/sbin/mysqld  Ver 8.0.36-0ubuntu0.22.04.1 for Linux on x86_64", ("mysql", (8, 0, 36))),
        ("/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))", ("mysql", (9, 7, 4))),
        ("/opt/mariadb/bin/mysqld  Ver 8.4.0 for Linux on x86_64", ("mysql", (8, 4, 0))),
        ("", None),
        ("psql (PostgreSQL) 15.3", None),
    ],
)
def test_versions_are_read(text, expected):
    assert parse_version(text) == expected


@given(st.text())
def test_any_text_may_come_instead_of_a_version(text):
    parse_version(text)


def test_a_missing_program_is_told_with_the_package_to_install(bare_machine):
    with pytest.raises(ConfigurationError) as caught:
        find_server()
    for part in (
        "apt-get install mariadb-server",
        "dnf install mariadb-server",
        "brew install mariadb",
        "CELERS_MYSQLD",
    ):
        assert part in str(caught.value)


def test_nothing_is_written_without_a_program(bare_machine, tmp_path):
    with pytest.raises(ConfigurationError, match="mariadb-server"):
        EmbeddedServer(tmp_path / "server").ensure_started()
    assert not (tmp_path / "server").exists()


def test_mariadb_is_preferred(bare_machine):
    program(bare_machine / "mysqld", "Ver 8.0.36 for Linux")
    assert find_server().flavour == "mysql"
    program(bare_machine / "mariadbd", "Ver 10.11.6-MariaDB for Linux")
    found = find_server()
    assert (found.label, found.series, found.path) == ("MariaDB 10.11.6", "10.11", bare_machine / "mariadbd")


def test_programs_that_do_not_answer_are_passed_over(bare_machine):
    program(bare_machine / "mariadbd", "what?")
    program(bare_machine / "mysqld", "Ver 8.0.36 for Linux")
    assert find_server().flavour == "mysql"


@pytest.mark.parametrize("version", ["Ver 10.5.9-MariaDB", "Ver 8.0.18 for Linux", "Ver 5.7.44 for Linux"])
def test_an_old_server_is_refused(bare_machine, version):
    program(bare_machine / "mysqld", version)
    with pytest.raises(ConfigurationError, match="or newer"):
        find_server()


def test_the_environment_names_a_program(bare_machine, monkeypatch, tmp_path):
    program(bare_machine / "mariadbd", "Ver 10.11.6-MariaDB")
    wrapper = program(bare_machine / "mysqld9", "Ver 9.7.4", "exec mysqld --no-defaults")
    monkeypatch.setenv("CELERS_MYSQLD", "mysqld9")
    assert find_server() == ServerBinary(wrapper, "mysql", (9, 7, 4), defaults_chosen=True)
    monkeypatch.setenv("CELERS_MYSQLD", str(bare_machine / "mariadbd"))
    assert find_server().command == [str(bare_machine / "mariadbd"), "--no-defaults"]
    monkeypatch.setenv("CELERS_MYSQLD", "nothing-there")
    with pytest.raises(ConfigurationError, match="'nothing-there'"):
        find_server()
    program(bare_machine / "other", "says hello")
    monkeypatch.setenv("CELERS_MYSQLD", "other")
    with pytest.raises(ConfigurationError, match="does not answer like a server"):
        find_server()


@pytest.mark.parametrize("server", [MARIADB, MYSQL])
@pytest.mark.parametrize("root", [True, False])
def test_the_command_line(server, root):
    places = {"data": Path("/d/data"), "runtime": Path("/r"), "log": Path("/d/log")}
    arguments = server_arguments(server, socket="s", options=("--port=1",), root=root, **places)
    assert arguments[0] == str(server.path)
    # Only as the first switch, and once: a script that gives it already must not get it again.
    assert (arguments[1] == "--no-defaults") is (server is MARIADB)
    assert {
        "--datadir=/d/data",
        "--socket=/r/s",
        "--skip-networking",
        "--innodb-flush-log-at-trx-commit=1",
    } <= {*arguments}
    assert ("--user=root" in arguments) is root
    assert arguments[-1] == "--port=1"


def test_the_data_directory_must_be_of_the_same_series(tmp_path):
    with pytest.raises(ConfigurationError, match="not made by celers"):
        check_data(tmp_path, MARIADB)
    write_json(tmp_path / MARKER, {"flavour": "mariadb", "series": "10.11", "version": "10.11.2"})
    check_data(tmp_path, MARIADB)
    with pytest.raises(ConfigurationError, match=r"made by mariadb 10\.11, but .* is mysql 9\.7"):
        check_data(tmp_path, MYSQL)


def test_the_log_explains(tmp_path):
    log = tmp_path / "log"
    assert explain_log(log) == "no log was written"
    log.write_text("a\n2026 [ERROR] mysqld: Can't read dir (errno: 13 - Permission denied)\n2026 [Note] end\n")
    assert "Can't read dir" in explain_log(log)
    assert "AppArmor" in explain_log(log)


def test_the_default_directory(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_directory() == Path("/data/celers/server")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_directory() == Path("/home/ada/.local/share/celers/server")
    assert EmbeddedServer().directory == default_directory()


def test_the_url_names_the_server(tmp_path):
    server = EmbeddedServer(tmp_path / "a b?c", idle_secs=2.5, database="x y")
    options = parse_url(server.url)
    assert (options.embedded_dir, options.embedded_idle_secs, options.database) == (
        str(tmp_path / "a b?c"),
        2.5,
        "x y",
    )


def test_directories_are_private(tmp_path):
    (tmp_path / "server").mkdir(mode=0o755)
    real = prepare_directory(tmp_path / "server")
    assert stat.S_IMODE(real.stat().st_mode) == 0o700
    assert stat.S_IMODE(prepare_directory(tmp_path / "new" / "server").stat().st_mode) == 0o700
    assert prepare_directory(real) == real


def test_the_runtime_directory_is_short_and_trusted(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 200)
    long.mkdir()
    monkeypatch.setattr(paths, "_TEMPORARY", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    found = runtime_directory(long)
    assert found.parent == tmp_path / f"celers-{os.geteuid()}"
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700
    assert runtime_directory(tmp_path) != found
    # Somebody else may have put a link there, for the sockets to land where they can reach them.
    found.rmdir()
    for path in found.parent.iterdir():
        path.rmdir()
    found.parent.rmdir()
    found.parent.symlink_to(tmp_path)
    with pytest.raises(ConfigurationError, match="not a directory"):
        runtime_directory(long)
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    assert runtime_directory(long).parent == tmp_path / "run" / "celers"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with pytest.raises(ConfigurationError, match="too long for a socket"):
        runtime_directory(long)


def test_a_lock_is_held_by_one_and_inherited(tmp_path):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire(0.05)
    with subprocess.Popen(["sleep", "60"], pass_fds=(first.fd,)) as child:
        first.close()
        assert not second.acquire()
        child.kill()
        child.wait()
    assert second.acquire()
    assert second.in_place()
    (tmp_path / "lock").unlink()
    assert not second.in_place()
    assert first.acquire()
    first.close()
    second.close()


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff", b"null"])
def test_unreadable_state_is_no_state(tmp_path, text):
    (tmp_path / "state").write_bytes(text)
    assert read_json(tmp_path / "state") is None
    assert read_json(tmp_path / "missing") is None


def test_control_answers_and_silence(tmp_path):
    path = tmp_path / "control"
    assert control.ask(str(path), {}, 1) is None
    listener = control.listen(path)
    with pytest.raises(TimeoutError):
        control.ask(str(path), {}, 0.05)

    def serve() -> None:
        for answer in (b'{"ok": true}\n', b'{"o', b"[]\n", b"{\n"):
            channel, _ = listener.accept()
            with channel:
                assert control.receive(channel, 5) == {"command": "x"}
                channel.sendall(answer)

    listener.accept()[0].close()
    listener.setblocking(True)
    thread = threading.Thread(target=serve)
    thread.start()
    answers = [control.ask(str(path), {"command": "x"}, 5) for _ in range(4)]
    thread.join()
    listener.close()
    assert answers == [{"ok": True}, None, None, None]
    assert control.ask(str(path), {}, 1) is None


def test_the_package_imports_nothing_heavy():
    code = "import sys, celers.embedded; print({'fcntl', 'MySQLdb', 'celers.embedded.server'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
