"""Time-ordered ids of both twins."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
import time
from itertools import pairwise
from uuid import RFC_4122, UUID, SafeUUID

import pytest

from celers.errors import ValidationError


@pytest.fixture(autouse=True)
def restored_clock(request):
    """Some tests set the time of the last id into the future; later ones must not inherit that."""
    yield
    for topic in request.node.funcargs.values():
        if hasattr(topic, "_set_last_ms"):
            topic._set_last_ms(0)


def milliseconds(value: UUID) -> int:
    return value.int >> 80


def test_form(ids):
    before = time.time_ns() // 1_000_000
    made = [ids.uuid7(), *ids.uuid7_many(50)]
    after = time.time_ns() // 1_000_000
    for value in made:
        assert type(value) is UUID
        assert value.version == 7
        assert value.variant == RFC_4122
        assert value.is_safe is SafeUUID.unknown
        assert before <= milliseconds(value) <= after
        assert UUID(str(value)) == value
        assert hash(UUID(str(value))) == hash(value)
        assert UUID(bytes=value.bytes) == value
        assert pickle.loads(pickle.dumps(value)) == value
        assert copy.deepcopy(value) == value


def test_ascending_and_unique(ids):
    made = ids.uuid7_many(20_000)
    for _ in range(20_000):
        made.append(ids.uuid7())
    made += ids.uuid7_many(1)
    assert all(a < b for a, b in pairwise(made))


def test_random_part_varies(ids):
    tails = {value.int & 0xFFFF_FFFF for value in ids.uuid7_many(5000)}
    assert len(tails) > 4990
    ones = sum((value.int & 0xFFFF_FFFF).bit_count() for value in ids.uuid7_many(5000))
    assert abs(ones / (5000 * 32) - 0.5) < 0.02


def test_a_clock_that_goes_back_does_not_take_the_ids_back(ids):
    ahead = time.time_ns() // 1_000_000 + 3_600_000
    ids._set_last_ms(ahead)
    made = [ids.uuid7() for _ in range(100)] + ids.uuid7_many(100)
    assert {milliseconds(value) for value in made} == {ahead}
    assert made == sorted(made)
    assert len(set(made)) == 200


def test_counts(ids):
    assert ids.uuid7_many(0) == []
    assert len(ids.uuid7_many(1)) == 1
    assert len(ids.uuid7_many(257)) == 257
    for bad in (-1, 1_000_001, 10**30, True, 1.0, "1", None):
        with pytest.raises(ValidationError, match="n must be"):
            ids.uuid7_many(bad)


def test_threads_get_different_ids_each_in_order(ids):
    results: list[list[UUID]] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        mine: list[UUID] = []
        for _ in range(200):
            mine.append(ids.uuid7())
            mine.extend(ids.uuid7_many(20))
        results.append(mine)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert all(mine == sorted(mine) for mine in results)
    assert len({value for mine in results for value in mine}) == 8 * 200 * 21


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_children_do_not_repeat_what_the_parent_makes(ids):
    ids.uuid7()  # random bytes are buffered now
    ahead = time.time_ns() // 1_000_000 + 3_600_000
    ids._set_last_ms(ahead)
    ids.uuid7()
    texts: list[bytes] = []
    for _ in range(3):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write, b"".join(value.bytes for value in ids.uuid7_many(100)))
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            texts.append(answer.read())
        os.waitpid(child, 0)
    made = [text[i : i + 16] for text in texts for i in range(0, len(text), 16)]
    made += [value.bytes for value in ids.uuid7_many(100)]
    assert len(made) == 400
    assert len(set(made)) == 400
    assert len({value[12:] for value in made}) > 395, "random bytes were shared"
    children = {int.from_bytes(value[:6], "big") for value in made[:300]}
    assert ahead not in children, "the children counted on from the parent's state"
