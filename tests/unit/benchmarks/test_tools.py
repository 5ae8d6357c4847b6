"""The tally, the counter of commands, and the choice of benchmarks."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.broker_benchmark import compare_with, names
from benchmarks.profile import packet_kind
from benchmarks.proxy import CommandCounter
from benchmarks.tally import Tally, number_of, payload_of


def test_payloads_carry_their_number():
    assert len(payload_of(17)) == 100
    assert number_of(payload_of(17)) == 17
    assert number_of(payload_of(17).encode()) == 17


@pytest.mark.parametrize("times", [False, True])
def test_tally(tmp_path, times):
    tally = Tally.create(tmp_path / "tally", 11, times=times)
    other = Tally.attach(tally.path)
    other.ready()
    assert tally.pids() == [os.getpid()]
    tally.open_gate()
    other.wait_at_gate()
    for number in (0, 10, 10):
        other.mark(number)
    assert (tally.done(), tally.duplicates()) == (2, 1)
    assert tally.ran(10)
    assert not tally.ran(9)
    if times:
        assert tally.time_of(10) > 0
        assert tally.time_of(9) == 0
    other._map.close()
    tally.close()
    assert list(tmp_path.iterdir()) == []


def packet(sequence: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([sequence]) + body


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=30)), max_size=20), st.integers(1, 50))
def test_commands_are_counted_however_the_stream_is_cut(packets, size):
    stream = b"".join(packet(sequence, body) for sequence, body in packets)
    counter = CommandCounter()
    for at in range(0, len(stream), size):
        counter.feed(stream[at : at + size])
    assert counter.commands == sum(sequence == 0 for sequence, _ in packets)


@pytest.mark.spec("BENCH-01")
def test_all_benchmarks_have_their_names():
    wanted = {"enqueue_single", "dequeue_single", "ack", "queue_size", "statistics", "reject_requeue"}
    wanted |= {"enqueue_scheduled", "scaling", "finished_rows"}
    wanted |= {f"enqueue_batch_{count}" for count in (10, 50, 100, 500, 1000)}
    wanted |= {f"{name}_{count}" for name in ("dequeue_batch", "ack_batch") for count in (10, 50, 100)}
    assert set(names([])) == wanted
    assert names(["ack_batch"]) == ["ack_batch_10", "ack_batch_50", "ack_batch_100"]
    with pytest.raises(ValueError, match="nonsense"):
        names(["nonsense"])


@pytest.mark.spec("BENCH-02")
def test_baseline():
    lines = compare_with({"ack": [1.0] * 9}, {"ack": [2.0] * 9, "queue_size": [1.0]})
    assert lines[0] == ["ack", "+100.0%", "+100.0% to +100.0%", "slower"]
    assert lines[1][-1] == "new"


def test_packets_have_kinds():
    claim = b"SELECT sort_rank, seq FROM celers_ready WHERE queue_id = 1"
    ack = b"UPDATE celers_tasks SET state = 'completed'"
    assert packet_kind(claim) == "packet: claim"
    assert packet_kind(ack) == "packet: ack"
    assert packet_kind(ack + b";" + claim) == "packet: ack and claim in one"
    assert packet_kind(b"SELECT 1") == "packet: other"
