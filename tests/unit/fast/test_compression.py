"""Payload compression of both twins."""

from __future__ import annotations

import os
import threading
import zlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from celers.errors import DeserializationError, PayloadTooLargeError, ValidationError

parity = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def packed(data: bytes, level: int = 1) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -15)
    return b"\x01" + stream.compress(data) + stream.flush()


@pytest.mark.spec("IMPEX-05")
def test_stored_form(compression):
    text = b"celers " * 1000
    assert compression.compress_payload(text)[0] == 1
    assert compression.compress_payload(b"short") == b"\x00short"
    assert compression.compress_payload(b"") == b"\x00"
    assert compression.compress_payload(b"aaaaaaaaaaaaaaaaaaaaaa", min_size=0)[0] == 1
    noise = os.urandom(5000)
    assert compression.compress_payload(noise) == b"\x00" + noise
    assert compression.compress_payload(text, level=0) == b"\x00" + text
    assert compression.compress_payload(text, min_size=7001) == b"\x00" + text
    assert compression.compress_payload(text, min_size=7000)[0] == 1


@pytest.mark.spec("IMPEX-05")
def test_round_trip_of_all_levels_sizes_and_types(compression):
    for size in (0, 1, 2, 3, 1023, 1024, 1025, 16383, 16384, 70_000, 1_100_000):
        data = (b"0123456789" * (size // 10 + 1))[:size]
        for level in range(10) if size < 20_000 else (1, 9):
            for form in (data, bytearray(data), memoryview(data)):
                stored = compression.compress_payload(form, level=level, min_size=0)
                assert type(stored) is bytes
                assert compression.decompress_payload(stored) == data
                assert compression.decompress_payload(memoryview(stored)) == data


@pytest.mark.spec("IMPEX-05")
@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\x02abc",
        b"\xff",
        b"\x01",
        b"\x01\xff\xff\xff",
        packed(b"x" * 5000)[:-1],
        packed(b"x" * 5000)[:5],
        packed(b"x" * 5000) + b"!",
        packed(os.urandom(100)) + packed(b"")[1:],
    ],
)
def test_damaged(compression, stored):
    with pytest.raises(DeserializationError):
        compression.decompress_payload(stored)


@pytest.mark.spec("IMPEX-05")
def test_limit_on_the_output(compression):
    for size in (0, 1, 100, 4096, 65_536, 300_000):
        data = b"y" * size
        for stored in (b"\x00" + data, packed(data)):
            assert compression.decompress_payload(stored, max_size=size) == data
            if size:
                with pytest.raises(PayloadTooLargeError):
                    compression.decompress_payload(stored, max_size=size - 1)
    bomb = packed(bytes(64 << 20), 9)
    with pytest.raises(PayloadTooLargeError) as caught:
        compression.decompress_payload(bomb)
    assert caught.value.limit == 16_777_215


@pytest.mark.parametrize("value", ["text", None, 5, [1]])
def test_wrong_types(compression, value):
    with pytest.raises(ValidationError, match="payload"):
        compression.compress_payload(value)
    with pytest.raises(ValidationError, match="payload"):
        compression.decompress_payload(value)
    with pytest.raises(ValidationError, match="payload"):
        compression.compress_payloads([b"", value])


@pytest.mark.parametrize("level", [-1, 10, True, 1.0, None])
def test_wrong_levels(compression, level):
    with pytest.raises(ValidationError, match="level"):
        compression.compress_payload(b"", level=level)
    with pytest.raises(ValidationError, match="level"):
        compression.compress_payloads([], level=level)


def test_wrong_sizes(compression):
    with pytest.raises(ValidationError, match="min_size"):
        compression.compress_payload(b"", min_size=-1)
    with pytest.raises(ValidationError, match="max_size"):
        compression.decompress_payload(b"\x00", max_size=-1)


def test_batches_are_what_single_calls_give(compression):
    items = [os.urandom(i) if i % 3 else b"z" * (i * 40) for i in range(200)]
    items += [b"w" * 700_000, os.urandom(700_000), b"", b"v" * 2_000_000, b"tail" * 500]
    for level in (0, 1, 6):
        expected = [compression.compress_payload(item, level=level, min_size=100) for item in items]
        assert compression.compress_payloads(items, level=level, min_size=100) == expected
    assert compression.compress_payloads([]) == []
    assert compression.compress_payloads((bytearray(b"a"), memoryview(b"b"))) == [b"\x00a", b"\x00b"]


def test_large_batches_are_what_single_calls_give(compression):
    """Several threads work on them, each with a stream for short and one for long payloads."""
    items = [b"%d %s" % (i, b"payload " * (i % 700)) for i in range(1500)] + [os.urandom(4000) for _ in range(50)]
    items += [(b"0123456789 %d" % i) * 500 for i in range(300)]
    expected = [compression.compress_payload(item) for item in items]
    for _ in range(5):
        assert compression.compress_payloads(items) == expected


@pytest.mark.spec("IMPEX-05")
def test_every_zlib_reads_the_streams(compression):
    for size in (100, 4095, 4096, 4097, 70_000):
        data = b"celers %d " % size * (size // 8 + 1)
        stored = compression.compress_payload(data, min_size=0)
        assert stored[0] == 1
        assert zlib.decompress(stored[1:], -15) == data


def test_threads_do_not_share_a_stream(compression):
    wrong = []

    def work(number: int) -> None:
        data = [bytes([number]) * size for size in (2000, 20_000, 200_000)]
        for _ in range(20):
            if [compression.decompress_payload(compression.compress_payload(x)) for x in data] != data:
                wrong.append(number)
            if [compression.decompress_payload(x) for x in compression.compress_payloads(data)] != data:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


compressible = st.builds(
    lambda parts, times: b"".join(parts) * times,
    st.lists(st.binary(max_size=40), max_size=20),
    st.integers(1, 50),
)


@parity
@example(b"\0\0\1\0\1\0\1", 1, 0)  # one byte is saved
@given(st.one_of(st.binary(max_size=3000), compressible), st.integers(0, 9), st.integers(0, 2000))
def test_twins_agree(both, data, level, min_size):
    outcome = both("compression", "compress_payload", data, level=level, min_size=min_size)
    assert both("compression", "decompress_payload", outcome[1]) == ("value", data)


@parity
@given(st.binary(max_size=200), st.integers(0, 100))
def test_twins_agree_on_noise(both, stored, max_size):
    both("compression", "decompress_payload", b"\x01" + stored, max_size=max_size)
    both("compression", "decompress_payload", stored, max_size=max_size)


@parity
@given(compressible, st.data())
def test_twins_agree_on_damage(both, data, draw):
    stored = bytearray(packed(data))
    at = draw.draw(st.integers(1, len(stored) - 1))
    stored[at] = draw.draw(st.integers(0, 255))
    limit = draw.draw(st.integers(0, len(data) + 10))
    both("compression", "decompress_payload", bytes(stored), max_size=limit)
