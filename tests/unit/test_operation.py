"""Operations: one definition, bound to two kinds of broker under two names each."""

from __future__ import annotations

import inspect
import json

import pytest

import celers.flat
from celers import AsyncMysqlBroker, MysqlBroker, SerializedTask
from celers.components.base import Component
from celers.components.consumer import Consumer
from celers.components.producer import Producer
from celers.components.tasks import Tasks
from celers.core import Core
from celers.db.pool import Pool
from celers.db.url import parse_url
from celers.errors import ValidationError
from celers.flat import FlatNames
from celers.model.config import PoolConfig
from celers.operation import Operation, Packet, Steps, operation

pytestmark = pytest.mark.spec("ARCH-01")

AGREED = """
enqueue enqueue_at enqueue_after enqueue_batch enqueue_with_retry_policy enqueue_with_capacity dequeue
dequeue_batch dequeue_with_worker_id ack ack_batch ack_batch_with_results reject reject_batch
reject_with_retry_policy get_task list_tasks list_scheduled_tasks count_scheduled_tasks cancel cancel_batch
expire_pending_tasks update_batch_state store_result store_result_batch get_result get_result_batch
delete_result archive_results pause resume is_paused enable_drain_mode disable_drain_mode is_drain_mode
queue_size get_statistics has_capacity list_dlq register_worker update_worker_heartbeat unregister_worker
get_all_worker_heartbeats list_active_workers get_worker_statistics get_all_worker_statistics
recover_stuck_tasks requeue_stuck_tasks_by_worker purge_all migrate list_migrations verify_migrations
list_results generate_load delete_load export_tasks iter_export_tasks import_tasks import_tasks_from
export_dlq iter_export_dlq
"""

URL = "mysql://nobody:secret@localhost/nowhere"


def core() -> Core:
    made = Core("default", "celers_", max_payload_bytes=1000, compress=False, lease_secs=60)
    made.set_queue_id(7)
    return made


@pytest.fixture(params=["sync", "async"])
def unconnected(request):
    """A broker that has not connected."""
    if request.param == "async":
        return AsyncMysqlBroker(URL, heartbeat=False)
    broker = MysqlBroker.__new__(MysqlBroker)
    broker._bind(core(), Pool(parse_url(URL), PoolConfig()), None, owns_pool=True)
    return broker


def flat_names() -> list[str]:
    return [name for name, value in vars(FlatNames).items() if type(value).__module__ == "celers.flat"]


class Recorder:
    """A runner that only remembers what it was asked to bind."""

    foreign = False
    is_async = False

    def __init__(self) -> None:
        self.bound: list[str] = []

    def bind(self, found, component):
        self.bound.append(found.name)
        return lambda *args, **kwargs: (component, args, kwargs)


class Letters(Component):
    attribute = "letters"

    @operation("read", needs_queue=False)
    def find(self, key: int, *, deep: bool = False) -> Steps[str | None]:
        """Find a letter."""
        found = yield Packet(b"SELECT %d" % key)
        return "deep" if deep else str(found)


def test_on_the_class_the_operation_itself_is_found():
    assert isinstance(Letters.find, Operation)
    assert Letters.find.kind == "read"
    assert Letters.find.owner is Letters
    assert Letters.find.__doc__ == "Find a letter."


def test_bound_it_looks_like_a_method():
    letters = Letters(core(), Recorder())
    signature = inspect.signature(letters.find)
    assert str(signature) == "(key: 'int', *, deep: 'bool' = False) -> 'str | None'"
    assert letters.find.__doc__ == "Find a letter."
    assert letters.find.__name__ == "find"
    assert letters.find.__qualname__.endswith("Letters.find")


def test_it_is_bound_once_for_each_component():
    runner = Recorder()
    letters = Letters(core(), runner)
    assert letters.find is letters.find
    assert runner.bound == ["find"]
    assert Letters(core(), runner).find is not letters.find


def test_the_steps_can_be_taken_by_hand():
    steps = Letters.find.steps(Letters(core(), Recorder()), 3, deep=True)
    packet = next(steps)
    assert packet.statements == (b"SELECT 3",)
    assert not packet.commit
    with pytest.raises(StopIteration) as stop:
        steps.send([])
    assert stop.value.value == "deep"


# Flat names


@pytest.mark.parametrize("name", flat_names())
def test_a_flat_name_is_the_method_of_its_component(unconnected, name):
    target = getattr(FlatNames, name)
    component = getattr(unconnected, target.owner.attribute)
    assert isinstance(component, target.owner)
    method = getattr(unconnected, name)
    assert method is getattr(component, target.name)
    assert method.__doc__ == target.steps.__doc__
    assert method.__doc__
    assert "self" not in inspect.signature(method).parameters


@pytest.mark.parametrize("name", [name for name in flat_names() if isinstance(getattr(FlatNames, name), Operation)])
def test_asyncio_brokers_have_coroutines_and_the_others_have_not(unconnected, name):
    expected = isinstance(unconnected, AsyncMysqlBroker)
    assert inspect.iscoroutinefunction(getattr(unconnected, name)) is expected


def test_both_brokers_have_the_same_signatures():
    for name in flat_names():
        steps = getattr(FlatNames, name).steps
        assert next(iter(inspect.signature(steps).parameters)) == "self", name


def test_the_names_that_were_agreed_on_are_there():
    assert set(AGREED.split()) <= set(flat_names())


def test_each_flat_name_stands_once_in_the_table():
    source = inspect.getsource(celers.flat)
    for name in flat_names():
        assert source.count(f"    {name} = ") == 1


# What the operations decide, without a server


def test_enqueue_is_one_packet():
    producer = Producer(core(), Recorder())
    task = SerializedTask.new("mail.send", b"x", priority=3)
    packet = next(Producer.enqueue.steps(producer, task))
    assert packet.commit
    assert [text.split()[0] for text in packet.statements] == [b"INSERT", b"INSERT"]
    assert task.metadata.id.bytes.hex().encode() in packet.statements[0]
    assert b"draining" in packet.statements[1]


def test_nothing_is_asked_of_the_server_for_a_bad_argument():
    with pytest.raises(ValidationError, match="limit"):
        next(Tasks.page.steps(Tasks(core(), Recorder()), None, -1, 0))


def test_dequeue_of_nothing_and_batches_of_nothing_send_nothing():
    consumer = Consumer(core(), Recorder())
    for steps in (Consumer.dequeue_batch.steps(consumer, 0), Consumer.ack_batch.steps(consumer, [])):
        with pytest.raises(StopIteration):
            next(steps)


def test_a_claim_without_a_consumer_opens_one_that_may_be_repeated():
    packet = next(Consumer.dequeue.steps(Consumer(core(), Recorder())))
    assert packet.repeat
    assert packet.commit
    assert packet.statements[0].startswith(b"INSERT INTO celers_consumers")


def claim_packet(found: Core) -> tuple[object, Packet]:
    steps = Consumer.dequeue_batch.steps(Consumer(found, Recorder()), 10)
    packet = next(steps)
    if packet.statements[0].startswith(b"INSERT"):
        packet = steps.send([type("R", (), {"insert_id": 5, "rows": ()})()])
    return steps, packet


@pytest.mark.spec("CORE-15", "ARCH-12")
def test_after_a_claim_whose_end_nobody_saw_the_lease_is_read_first():
    found = core()
    steps, packet = claim_packet(found)
    assert packet.statements[0].startswith(b"SELECT 922")
    steps.close()
    steps, packet = claim_packet(found)
    assert packet.statements[0].startswith(b"SELECT lease FROM celers_consumers")
    steps.close()


def test_an_async_broker_does_nothing_before_it_is_used():
    broker = AsyncMysqlBroker(URL)
    assert broker.pool().size == 0
    assert broker.server_version == ""
    assert json.dumps(broker.queue_name) == '"default"'
