"""Operations of rare kinds: streams, statements of a connection that takes no packets, and pairs of functions."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Generator
from typing import Any

import pytest

from celers import AsyncMysqlBroker, BrokerError, MysqlBroker, SerializedTask, ValidationError
from celers.components.base import Component
from celers.operation import Packet, Steps, operation, paired, streamed
from tests.fixtures.brokers import Blocking
from tests.integration.test_bad_input import unreachable  # noqa: F401 - the fixture

pytestmark = pytest.mark.spec("ARCH-01")


class Odd(Component):
    """Operations of the kinds in question."""

    attribute = "odd"
    ended: list[str]

    @streamed
    def numbers(self, upto: int, *, pages: int = 1) -> Generator[Packet | list[Any], Any, None]:
        """Give the numbers below `upto`, and at the end of each page the number of the connection."""
        if upto < 0:
            raise ValidationError("upto must not be negative", parameter="upto")
        try:
            for _ in range(pages):
                (found,) = yield Packet(b"SELECT CONNECTION_ID(), @celers_pages := IFNULL(@celers_pages, 0) + 1")
                yield []
                yield [*range(upto), tuple(map(int, found.rows[0]))]
        finally:
            self.ended.append("numbers")

    @streamed
    def of_queue(self) -> Generator[Packet | list[int], Any, None]:
        """Give the queue's number twice."""
        queue_id = self.core.queue_id
        found = yield Packet(b"SELECT %d" % queue_id, b"SELECT %d" % queue_id)
        yield [int(result.rows[0][0]) for result in found]

    @streamed
    def failing(self) -> Generator[Packet | list[int], Any, None]:
        """Give a number, then fail at the server."""
        yield [1]
        yield Packet(b"SELECT 1", b"SELECT * FROM celers_missing")

    @streamed
    def slow(self) -> Generator[Packet | list[int], Any, None]:
        """Wait at the server."""
        try:
            yield Packet(b"SELECT 1 FROM (SELECT SLEEP(0.5)) nothing")
            yield [1]
        finally:
            self.ended.append("slow")

    @operation("plain", needs_queue=False, single=True)
    def given(self, *texts: bytes) -> Steps[list[int]]:
        """Run texts of a caller, each in a packet of its own."""
        found = []
        for text in texts:
            results = yield Packet(text)
            found.append(int(results[0].rows[0][0]))
        return found

    @operation("plain", needs_queue=False, single=True)
    def together(self) -> Steps[int]:
        """Two statements in one packet, which such a connection refuses."""
        return len((yield Packet(b"SELECT 1", b"SELECT 2")))

    def _blocking(self, number: int, *, twice: bool = False) -> str:
        """Say which form it is."""
        return f"blocking {number * (1 + twice)}"

    async def _coroutine(self, number: int, *, twice: bool = False) -> str:
        await asyncio.sleep(0)
        return f"coroutine {number * (1 + twice)}"

    form = paired(_blocking, _coroutine)


def odd(broker) -> Any:
    """The component on a broker; that of an asyncio broker behind a blocking face."""
    if isinstance(broker, Blocking):
        made = Odd(broker.core, broker._target._runner)
        made.ended = []
        return Blocking(made, broker._loop)
    made = Odd(broker.core, broker._runner)
    made.ended = []
    return made


def connections(tables) -> int:
    return tables.value("SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE()")


def wait_until(condition) -> bool:
    """The server notices a little later that a connection was closed."""
    waiting = threading.Event()
    return any(condition() or waiting.wait(0.01) for _ in range(500))


def test_a_stream_gives_its_values_in_order_on_a_connection_of_its_own(broker, tables):
    made = odd(broker)
    before = connections(tables)
    values = list(made.numbers(2, pages=3))
    assert [value for value in values if isinstance(value, int)] == [0, 1] * 3
    numbers = [value for value in values if isinstance(value, tuple)]
    assert [count for _, count in numbers] == [1, 2, 3]  # the session is the same all the time
    assert len({number for number, _ in numbers}) == 1
    assert made.ended == ["numbers"]
    assert wait_until(lambda: connections(tables) == before)


def test_streams_do_not_disturb_each_other_or_the_pool(make_broker):
    from celers import PoolConfig

    broker = make_broker(pool_config=PoolConfig(min_connections=1, max_connections=1))
    made = odd(broker)
    one, two = made.numbers(1, pages=2), made.numbers(1, pages=2)
    seen = [next(one), next(two), next(one), next(two)]
    assert broker.queue_size() == 0
    seen += [*one, *two]
    assert len({value[0] for value in seen if isinstance(value, tuple)}) == 2


def test_a_stream_checks_its_parameters_before_it_connects(unreachable, database_url):  # noqa: F811
    made = odd(unreachable)
    with pytest.raises(ValidationError, match="upto"):
        list(made.numbers(-1))
    with pytest.raises(BrokerError):
        list(made.numbers(1))
    assert made.ended == ["numbers"]


def test_a_stream_that_is_left_early_is_cleaned_up(broker, tables):
    before = connections(tables)
    made = odd(broker)
    stream = made.numbers(5)
    assert next(stream) == 0
    assert connections(tables) == before + 1
    stream.close()
    assert made.ended == ["numbers"]
    assert wait_until(lambda: connections(tables) == before)


def test_a_stream_learns_the_number_of_a_new_queue(broker, tables):
    fresh = broker.for_queue("fresh")
    (one, two) = odd(fresh).of_queue()
    assert one == two == tables.value("SELECT queue_id FROM celers_queues WHERE name = 'fresh'")


def test_an_error_of_the_server_ends_a_stream(broker, tables):
    before = connections(tables)
    stream = odd(broker).failing()
    assert next(stream) == 1
    from celers import ConfigurationError

    with pytest.raises(ConfigurationError, match="migrate"):
        next(stream)
    assert wait_until(lambda: connections(tables) == before)
    assert broker.queue_size() == 0


@pytest.mark.spec("CONF-04")
def test_a_closed_broker_has_no_streams(make_broker):
    broker = make_broker()
    made = odd(broker)
    started = made.numbers(1, pages=2)
    next(started)
    next(started)
    broker.close()
    with pytest.raises(BrokerError, match="closed"):
        list(started)
    with pytest.raises(BrokerError, match="closed"):
        list(made.numbers(1))


def test_the_reader_of_a_stream_may_be_cancelled(database_url):
    async def main() -> list[str]:
        async with AsyncMysqlBroker(database_url, heartbeat=False) as broker:
            made = Odd(broker.core, broker._runner)
            made.ended = []

            async def reading() -> None:
                async for _ in made.slow():
                    raise AssertionError

            task = asyncio.create_task(reading())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await broker.queue_size() == 0
            return made.ended

    assert asyncio.run(main()) == ["slow"]


def test_a_stream_looks_like_a_method(database_url):
    assert next(iter(inspect.signature(Odd.numbers.steps).parameters)) == "self"
    with MysqlBroker(database_url) as broker:
        made = odd(broker)
        assert made.numbers is made.numbers
        assert str(inspect.signature(made.numbers)).startswith("(upto: 'int', *, pages: 'int' = 1)")
        assert made.numbers.__name__ == "numbers"
        assert made.numbers.__doc__ == Odd.numbers.__doc__


@pytest.mark.spec("ARCH-08", "DEF-43", "DBMON-11")
def test_text_of_a_caller_cannot_smuggle_in_a_second_statement(broker, tables):
    broker.enqueue(SerializedTask.new("job"))
    made = odd(broker)
    assert made.given(b"SELECT 7", b"SELECT 8") == [7, 8]
    for text in (b"SELECT 1; DELETE FROM celers_tasks", b"SELECT 1;SELECT 2"):
        with pytest.raises(BrokerError) as caught:
            made.given(text)
        assert caught.value.errno == 1064
    with pytest.raises(BrokerError):
        made.together()
    assert broker.queue_size() == 1  # and the pool's own connections take packets as before
    tables.check(broker)


def test_a_single_statement_runs_on_a_connection_of_its_own(broker, tables):
    before = connections(tables)
    made = odd(broker)
    ids = made.given(b"SELECT CONNECTION_ID()", b"SELECT CONNECTION_ID()")
    assert ids[0] == ids[1]
    assert made.given(b"SELECT CONNECTION_ID()") != ids[:1]
    assert wait_until(lambda: connections(tables) == before)


def test_a_pair_has_one_form_for_each_broker(broker):
    made = odd(broker)
    word = "coroutine" if isinstance(broker, Blocking) else "blocking"
    assert made.form(3) == f"{word} 3"
    assert made.form(3, twice=True) == f"{word} 6"
    bound = made._target.form if isinstance(broker, Blocking) else made.form
    assert inspect.iscoroutinefunction(bound) is isinstance(broker, Blocking)
    assert str(inspect.signature(bound)) == "(number: 'int', *, twice: 'bool' = False) -> 'str'"
    assert bound.__doc__ == "Say which form it is."
    assert Odd.form.owner is Odd
