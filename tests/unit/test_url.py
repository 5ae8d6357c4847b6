"""Database URLs."""

from __future__ import annotations

import logging
import pickle
import traceback
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celers.db.url import SSL_MODES, ConnectOptions, parse_url
from celers.errors import ConfigurationError

pytestmark = pytest.mark.spec("CONF-01")

SECRET = "s3cr3tPassw0rd"


def refused(url: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "mysql://user:pw@db.example:3307/tasks",
            ConnectOptions("user", "pw", "db.example", 3307, database="tasks"),
        ),
        ("mariadb://user:pw@db/tasks", ConnectOptions("user", "pw", "db", database="tasks")),
        ("MySQL://h/d", ConnectOptions(host="h", database="d")),
        ("mysql://h/d?", ConnectOptions(host="h", database="d")),
        (" mysql://h/d\n", ConnectOptions(host="h", database="d")),
        ("mysql:///d", ConnectOptions(database="d")),
        ("mysql://user@/d", ConnectOptions("user", database="d")),
        ("mysql://user:@h/d", ConnectOptions("user", host="h", database="d")),
        ("mysql://u%40x:p%3A%2F%3F%23%40%25@h/d%20e", ConnectOptions("u@x", "p:/?#@%", "h", database="d e")),
        ("mysql://u:a@b:c@h/d", ConnectOptions("u", "a@b:c", "h", database="d")),
        ("mysql://u:p+q@h/d", ConnectOptions("u", "p+q", "h", database="d")),
        ("mysql://u:%C3%BC@h/d", ConnectOptions("u", "ü", "h", database="d")),
        ("mysql://u:ü@h/d", ConnectOptions("u", "ü", "h", database="d")),
        ("mysql://[::1]/d", ConnectOptions(host="::1", database="d")),
        ("mysql://u:p@[2001:db8::1]:3307/d", ConnectOptions("u", "p", "2001:db8::1", 3307, database="d")),
        ("mysql://[fe80::1%25eth0]/d", ConnectOptions(host="fe80::1%eth0", database="d")),
        ("mysql://127.0.0.1:1/d", ConnectOptions(host="127.0.0.1", port=1, database="d")),
        (
            "mysql://h/d?unix_socket=/run/my%20sql.sock&charset=latin1&connect_timeout=3&read_timeout=2.5&write_timeout=60",
            ConnectOptions(
                host="h",
                database="d",
                unix_socket="/run/my sql.sock",
                charset="latin1",
                connect_timeout=3.0,
                read_timeout=2.5,
                write_timeout=60.0,
            ),
        ),
        (
            "mysql://h/d?ssl_ca=/a&ssl_cert=/b&ssl_key=/c&ssl_mode=verify-identity",
            ConnectOptions(
                host="h", database="d", ssl_ca="/a", ssl_cert="/b", ssl_key="/c", ssl_mode="VERIFY_IDENTITY"
            ),
        ),
    ],
)
def test_what_is_read(url: str, expected: ConnectOptions) -> None:
    options = parse_url(url)
    assert options == expected
    assert parse_url(options.to_url()) == options


@pytest.mark.parametrize("mode", SSL_MODES)
def test_ssl_modes(mode: str) -> None:
    for text in (mode, mode.lower(), mode.replace("_", "-")):
        assert parse_url(f"mysql://h/d?ssl_mode={text}").ssl_mode == mode
    assert parse_url("mysql://h/d").ssl_mode is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "begin with"),
        ("nonsense", "begin with"),
        ("mysql:/h/d", "begin with"),
        ("postgresql://h/d", "begin with"),
        ("mysql+pymysql://h/d", "begin with"),
        (None, "text, not NoneType"),
        (b"mysql://h/d", "text, not bytes"),
        ("mysql://h", "database"),
        ("mysql://h/", "database"),
        ("mysql://h?charset=utf8mb4", "database"),
        ("mysql://h/a/b", "database"),
        ("mysql://h/%20d", "database"),
        ("mysql://h/" + "d" * 65, "database"),
        ("mysql://h:0/d", "port"),
        ("mysql://h:65536/d", "port"),
        ("mysql://h:x/d", "port"),
        ("mysql://h:-1/d", "port"),
        ("mysql://h:٣/d", "port"),
        ("mysql://:3306/d", "host"),
        ("mysql://::1/d", "colons"),
        ("mysql://[::1/d", "IPv6"),
        ("mysql://[::1]x/d", "IPv6"),
        ("mysql://[nohost]/d", "IPv6"),
        ("mysql://[]/d", "IPv6"),
        ("mysql://a b/d", "host"),
        ("mysql://a%2Fb/d", "host"),
        ("mysql://h/d?nope=1", "unknown option 'nope'"),
        ("mysql://h/d?=1", "unknown option"),
        ("mysql://h/d?password=x", "unknown option 'password'"),
        ("mysql://h/d?database=x", "unknown option 'database'"),
        ("mysql://h/d?CHARSET=x", "unknown option 'CHARSET'"),
        ("mysql://h/d?charset", "no value"),
        ("mysql://h/d?charset=", "no value"),
        ("mysql://h/d?charset=a&charset=b", "twice"),
        ("mysql://h/d?charset=a&&read_timeout=1", "unknown option"),
        ("mysql://h/d?charset=a'b", "charset"),
        ("mysql://h/d?ssl_mode=maybe", "ssl_mode must be one of DISABLED, PREFERRED"),
        ("mysql://h/d?connect_timeout=x", "connect_timeout"),
        ("mysql://h/d?connect_timeout=0", "connect_timeout"),
        ("mysql://h/d?read_timeout=-1", "read_timeout"),
        ("mysql://h/d?read_timeout=nan", "read_timeout"),
        ("mysql://h/d?read_timeout=inf", "read_timeout"),
        ("mysql://h/d?write_timeout=1e3", "write_timeout"),
        ("mysql://h/d?write_timeout=1_0", "write_timeout"),
        ("mysql://h/d?write_timeout=9999999999", "write_timeout"),
        ("mysql://h/d#part", "percent-encoded"),
        ("mysql://u:100%@h/d", "%25"),
        ("mysql://u:%zz@h/d", "%25"),
        ("mysql://u:%ff@h/d", "UTF-8"),
        ("mysql://u:\ud800@h/d", "UTF-8"),
        ("mysql://u:%00@h/d", "zero"),
        ("mysql://h/d\nx", "control"),
        ("mysql+embedded://h/dir", "three slashes"),
        ("mysql+embedded:///dir?ssl_mode=REQUIRED", "unknown option 'ssl_mode'"),
        ("mysql+embedded:///dir?idle=0", "idle"),
        ("mysql+embedded:///dir?database=a/b", "database"),
        ("mysql+embedded:///dir?database=", "no value"),
    ],
)
def test_what_is_refused(url: Any, reason: str) -> None:
    message = refused(url)
    assert reason in message
    assert message.startswith("bad database URL: ")


class TestEmbedded:
    def test_directory_and_options(self) -> None:
        options = parse_url("mysql+embedded:///var/my%20tasks?database=x&idle=90&connect_timeout=1")
        assert options.embedded_dir == "/var/my tasks"
        assert (options.database, options.embedded_idle_secs, options.connect_timeout) == ("x", 90, 1)
        assert parse_url(options.to_url()) == options

    def test_defaults(self) -> None:
        options = parse_url("mysql+embedded:///d")
        assert (options.database, options.embedded_idle_secs) == ("celers", 1800)
        assert options.to_url() == options.safe_url() == "mysql+embedded:///d"

    @pytest.mark.parametrize("url", ["mysql+embedded://", "mysql+embedded:///", "mysql+embedded://?idle=5"])
    def test_default_directory(self, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        directory = parse_url(url).embedded_dir
        assert directory is not None
        assert Path(directory).is_relative_to(tmp_path / "celers")
        monkeypatch.delenv("XDG_DATA_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        directory = parse_url(url).embedded_dir
        assert directory is not None
        assert Path(directory).is_relative_to(tmp_path / ".local" / "share" / "celers")

    def test_ordinary_servers_have_no_directory(self) -> None:
        assert parse_url("mysql://h/d").embedded_dir is None


@pytest.mark.spec("ARCH-09")
class TestSecrets:
    OPTIONS = ConnectOptions("user", SECRET, "h", database="d")

    def test_repr_str_and_safe_url(self, caplog: pytest.LogCaptureFixture) -> None:
        options = self.OPTIONS
        assert options.safe_url() == str(options) == "mysql://user:***@h/d"
        assert replace(options, password="").safe_url() == "mysql://user@h/d"
        assert SECRET in options.to_url()
        with caplog.at_level(logging.INFO):
            logging.getLogger("celers.test").info("%s %r", options, options)
        for text in (
            repr(options),
            str(options),
            f"{options}",
            caplog.text,
            repr([options]),
            str({"o": options}),
        ):
            assert SECRET not in text

    def test_a_password_without_user(self) -> None:
        options = parse_url(f"mysql://:{SECRET}@h/d")
        assert (options.user, options.password) == ("", SECRET)
        assert parse_url(options.to_url()) == options
        assert options.safe_url() == "mysql://:***@h/d"

    @pytest.mark.parametrize(
        "url",
        [
            "mysql://u:{}@h",
            "mysql://u:{}@h:x/d",
            "mysql://u:{}@a b/d",
            "mysql://u:{}@[::1/d",
            "mysql://u:{}@h/d?nope=1",
            "mysql://u:{}@h/d?read_timeout=x",
            "mysql://u:{}%@h/d",
            "mysql://u:{}%ff@h/d",
            "mysql://u:{}\ud800@h/d",
            "mysql://u:{}/x@h/d",
            "mysql://u:12/{}@h/d",
            "mysql://u:12?{}=1&x@h/d",
            "mysql://u:12/d?{}=1&x@h/d",
            "mysql://u:12#{}@h/d",
            "mysql://u:{}#x@h/d",
            "mysql://u:{}/d",
            "mysql://u@h:{}/d",
            "postgres://u:{}@h/d",
            "u:{}@h/d",
            "mysql+embedded://u:{}@h/d",
            "mysql+embedded:///{}@h/d",
            "mysql://u:{}\n@h/d",
            "mysql://u:{}@h/a/b",
        ],
    )
    def test_errors_never_show_a_password(self, url: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            parse_url(url.format(SECRET))
        text = str(caught.value) + repr(caught.value.args) + "".join(traceback.format_exception_only(caught.value))
        assert SECRET not in text
        printed = "".join(traceback.format_exception(caught.value))
        # The traceback of this test shows the template, never the filled URL.
        assert SECRET not in printed

    @given(st.text("abcXYZ019/:@?#%&=+ ", max_size=12), st.text("abcXYZ019/:@?#%&=+ ", max_size=12))
    def test_a_password_that_was_not_encoded(self, before: str, after: str) -> None:
        """It is read as it stands or refused, but never shown, whatever characters it has."""
        password = before + SECRET + after
        with pytest.raises(ConfigurationError) as caught:
            parse_url(f"mysql://u:{password}@h:nope/d")
        assert SECRET not in str(caught.value)


seconds = st.integers(1, 10**8).map(lambda value: value / 64)
paths = st.none() | st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text and encodable(text))
texts = st.text(max_size=30).filter(lambda text: "\0" not in text and encodable(text))
databases = st.text(min_size=1, max_size=64).filter(
    lambda text: text == text.strip() and not {"/", "\0"} & set(text) and encodable(text)
)
hosts = st.sampled_from(["localhost", "db-1.example.org", "10.0.0.1", "::1", "fe80::1%eth0", "bücher.example"])
common = {
    "database": databases,
    "connect_timeout": seconds,
    "read_timeout": seconds,
    "write_timeout": seconds,
    "charset": st.sampled_from(["utf8mb4", "latin1"]),
}


def encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@given(
    st.builds(
        ConnectOptions,
        user=texts,
        password=texts,
        host=hosts,
        port=st.integers(1, 65535),
        unix_socket=paths,
        ssl_ca=paths,
        ssl_cert=paths,
        ssl_key=paths,
        ssl_mode=st.none() | st.sampled_from(SSL_MODES),
        **common,
    )
)
def test_round_trip(options: ConnectOptions) -> None:
    assert parse_url(options.to_url()) == options
    if options.password:
        shown = options.safe_url()
        assert parse_url(shown) == replace(options, password="***")
        assert f":{quote(options.password, safe='')}@" not in shown or options.password == "***"


@given(
    st.builds(
        ConnectOptions,
        embedded_dir=texts.map(lambda text: "/" + text).filter(lambda path: path != "/"),
        embedded_idle_secs=seconds,
        **common,
    )
)
def test_round_trip_of_embedded_servers(options: ConnectOptions) -> None:
    assert parse_url(options.to_url()) == options


@given(st.text(max_size=60) | st.text("mysql:/@?#[]%=&.0a ", max_size=60).map(lambda text: "mysql://" + text))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        options = parse_url(text)
    except ConfigurationError:
        return
    assert parse_url(options.to_url()) == options


def test_options_are_plain_values() -> None:
    options = parse_url("mysql://u:p@h/d")
    assert pickle.loads(pickle.dumps(options)) == options
    assert hash(options) == hash(replace(options))
    assert {item.name for item in fields(options)} >= {
        "user",
        "password",
        "host",
        "port",
        "unix_socket",
        "database",
    }
