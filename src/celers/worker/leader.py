"""Keeping house for the whole database: one worker at a time recovers what the dead held and promotes what is due.

A worker that does not lead waits inside one GET_LOCK for the leader's end, so it costs a statement a minute and takes
over at once. The leader asks one question and learns from the answer when to ask again: nobody can be dead before the
oldest heartbeat is as old as its lease, and nothing is due before the first scheduled task is. Consumers promote by
themselves what becomes due; the leader does so for queues whose consumers are all busy.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from celers import rows as read
from celers.db.driver import Connection, DriverError, connect
from celers.errors import CelersError
from celers.heartbeat import leader_lock
from celers.worker.upkeep import Retention, Upkeep

if TYPE_CHECKING:
    from celers.broker import MysqlBroker

__all__ = ["Leader"]

log = logging.getLogger("celers.worker.keeper")

WAIT_SECS = 60.0
LONGEST_LOOK_SECS = 15.0
SHORTEST_LOOK_SECS = 0.5
LATE_SECS = 0.5
"""So long consumers have to promote by themselves what is due."""
TRY_AGAIN_SECS = 5.0


class Leader(threading.Thread):
    """Leads, or waits until it can.

    Parameters
    ----------
    brokers : sequence of MysqlBroker
        One for each queue of the worker; the first one is used.
    upkeep : Upkeep
        What to delete and take back besides.
    """

    def __init__(self, brokers: Sequence[MysqlBroker], upkeep: Upkeep) -> None:
        super().__init__(name="celers-leader", daemon=True)
        self._broker = brokers[0]
        self._ended = threading.Event()
        self._retention = Retention(brokers[0], upkeep, self._ended.wait)
        self._connection: Connection | None = None
        self._complained = False

    def finish(self, timeout: float) -> None:
        """End the thread and give the leadership up."""
        self._ended.set()
        connection = self._connection
        if connection is not None:
            # It may wait for the lock, for a minute.
            connection.shutdown_socket()
        self.join(timeout)

    def run(self) -> None:
        """Wait for the leadership and use it, until `finish`."""
        while not self._ended.is_set():
            try:
                self._connection = connection = connect(self._broker.options, read_timeout=WAIT_SECS + 10.0)
                self._lead(connection)
            except (CelersError, DriverError) as error:
                if not self._complained and not self._ended.is_set():
                    log.warning("housekeeping failed and is tried again: %s", error)
                self._complained = True
            except Exception:
                log.exception("unexpected error while keeping house; going on")
            finally:
                connection_ = self._connection
                self._connection = None
                if connection_ is not None:
                    connection_.close()
            self._ended.wait(TRY_AGAIN_SECS)

    def _lead(self, connection: Connection) -> None:
        """Use one connection, until the worker or the connection ends."""
        name = leader_lock(connection, self._broker.core.prefix).encode()
        take = b"SELECT GET_LOCK('%s', %d)" % (name, WAIT_SECS)
        while connection.run(take, 1)[0].rows[0][0] != b"1":
            if self._ended.is_set():
                return
        log.info("this worker keeps house for the database now")
        look = self._broker.core.sql("maintenance", "next_upkeep", lock=name.decode())
        while not self._ended.is_set():
            held, silent, due = connection.run(look, 1)[0].rows[0]
            if held != b"1":
                return
            pause = LONGEST_LOOK_SECS
            if silent is not None and (left := read.integer(silent) / 1e6) < pause:
                if left < 0:
                    self._broker.maintenance.rescue_dead()
                pause = max(left + 0.01, SHORTEST_LOOK_SECS)
            if due is not None and (left := read.integer(due) / 1e6 + LATE_SECS) < pause:
                if left <= 0:
                    self._broker.maintenance.promote_due()
                pause = max(left, SHORTEST_LOOK_SECS)
            pause = min(pause, max(self._retention.work(), 0.01))
            self._complained = False
            self._ended.wait(pause)
