"""Parent and child of a fork."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from celers import SerializedTask
from celers.db.driver import connect
from celers.db.url import parse_url
from tests.fixtures.forks import fork_and_go_on
from tests.fixtures.waiting import until

pytestmark = pytest.mark.timeout(60)
new = SerializedTask.new


@pytest.mark.spec("ARCH-02", "TEST-05")
def test_parent_and_child_of_a_fork_both_go_on(sync_broker):
    fork_and_go_on(sync_broker)


FORKING = """
import os, sys, threading
from celers import MysqlBroker, SerializedTask
broker = MysqlBroker(sys.argv[1])
broker.enqueue(SerializedTask.new("a"))
message = broker.dequeue()
# Another thread is waiting for an answer when the fork happens, and one holds a transaction.
busy = broker._pool.acquire()
thread = threading.Thread(target=lambda: busy.run(b"SELECT SLEEP(1)", 1))
thread.start()
opened = broker.with_transaction()
tx = opened.__enter__()
tx.enqueue(SerializedTask.new("b"))
if os.fork() == 0:
    if sys.argv[2] == "use":
        broker.enqueue(SerializedTask.new("child"))
        broker.close()
    del broker, busy, tx, opened
    sys.exit(0)  # the whole end of an interpreter, not os._exit
os.wait()
thread.join()
opened.__exit__(None, None, None)
broker._pool.release(busy)
broker.ack(message.task_id, message.receipt_handle)
assert broker.pool().failures == 0, broker.pool().failures
print(broker.queue_size())
"""


@pytest.mark.spec("ARCH-02", "TEST-05")
@pytest.mark.parametrize("what", ["use", "leave"])
def test_a_child_that_ends_says_nothing_on_the_parents_connections(database_url, what):
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, database_url, what],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(sys.modules["celers"].__file__))},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == ("2" if what == "use" else "1")


@pytest.mark.spec("ARCH-02")
def test_a_child_does_not_keep_the_parents_session_alive(server, database_url):
    connection = connect(parse_url(database_url))
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    connection.shutdown_socket()
    number = connection.thread_id
    connection.close()
    until(lambda: number not in [row[0] for row in server.rows("SHOW PROCESSLIST")])
    os.close(write)
    os.waitpid(child, 0)
