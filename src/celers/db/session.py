"""How one operation is carried out, as a generator of requests that a blocking or an asyncio loop fulfils.

All decisions about transactions, retries and lost connections are taken here, once. A loop only knows how to fulfil
four requests: acquire, send, discard, sleep.

What happens on an error of a packet
------------------------------------
- deadlock, lock wait timeout and their kin: roll back, wait (10 ms doubling, full jitter), repeat, five attempts;
- connection lost before anything was sent: repeat on another connection, unseen by the caller;
- connection lost while nothing could have been committed: repeat on another connection;
- connection lost after a COMMIT was sent: the outcome is unknown. The old session is killed on the server and waited
  for, so that it can change nothing any more. Then the error is thrown into the operation, which can look at what is
  stored; without that, it is started anew (`repeat_unknown`) or the error reaches the caller;
- no connection to be had, and anything else: roll back and throw the mapped error into the operation.

To repeat a packet that came first in its transaction means to send it again. Later ones need what came before them:
`Restart` is thrown into the operation, and when it lets that pass, a new generator begins from the start. An operation
that holds something from an earlier transaction may catch it instead. Attempts are counted anew after each commit, so
that the number of parts of a long operation does not matter, until the whole operation has begun anew.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celers.db.outcome import DriverError, Result, map_error
from celers.db.requests import Acquire, Discard, Request, Send, Session, Sleep
from celers.errors import BrokerConnectionError, BrokerError, CelersError
from celers.operation import Once, Packet, Restart, Steps, Undo

if TYPE_CHECKING:
    from celers.db.driver import Connection
    from celers.operation import Kind
    from celers.wakeup import Ring

__all__ = ["KEPT_CHANGING", "QUERY_INTERRUPTED", "RESTARTS", "drive", "drive_once"]

R = TypeVar("R")

RETRY_ERRNOS = frozenset({1020, 1205, 1213, 3101})
ATTEMPTS = 5
RESTARTS = 20
KEPT_CHANGING = "rows kept changing under the operation: repeat it"
FIRST_DELAY_SECS = 0.010
RECONNECTS = 8
SETTLE_SECS = 15.0
RELEASE_SECS = 1.0
QUERY_INTERRUPTED = 1317
TOLD_ERRNOS = frozenset({1053, 1927, 3169, 4031})
"""The server itself says that it ends the session instead of running the statement."""

_START = b"START TRANSACTION"
_COMMIT = b"COMMIT"


_ACQUIRE = Acquire()


def backoff(attempt: int) -> float:
    """Seconds to wait before retry `attempt` (from 0): 10 ms doubling up to 160 ms, with full jitter."""
    return random.random() * FIRST_DELAY_SECS * float(2 ** min(attempt, 4))


def drive(
    make: Callable[[], Steps[R]],
    kind: Kind,
    session: Session,
    *,
    repeat_unknown: bool = False,
    ring: Ring | None = None,
    failed: DriverError | None = None,
) -> Generator[Request, Any, R]:
    """Carry out one operation.

    Parameters
    ----------
    make : callable
        Makes the operation's generator; called again when the operation starts anew.
    kind : {"transaction", "read", "plain"}
    session : Session
        Filled in while the operation runs.
    repeat_unknown : bool
        Start anew when the outcome of a commit is unknown and the operation does not handle it.
    ring : Ring, optional
        Sent behind the COMMIT of a transaction that places tasks.
    failed : DriverError, optional
        What became of the first packet, which was sent already, on the session's connection.
    """
    steps = make()
    reply: list[Result] | None = None
    failure: BaseException | None = None
    unsettled: BrokerError | None = None
    attempt = restarts = reconnects = 0
    try:
        while True:
            # 1. What does the operation want next?
            thrown, failure = failure, None
            try:
                if thrown is not None:
                    packet = steps.throw(thrown)
                else:
                    packet = steps.send(reply) if reply is not None else next(steps)
            except StopIteration as stop:
                if not session.in_transaction:
                    return stop.value  # type: ignore[no-any-return]
                result: R = stop.value
                packet = None
            except Restart as wish:
                restarts += 1
                if wish is not thrown or restarts >= RESTARTS:
                    yield from _rollback(session)
                    if restarts >= RESTARTS:
                        raise BrokerError(KEPT_CHANGING, retryable=True) from None
                    yield Sleep(backoff(restarts - 1))
                steps, reply = make(), None
                continue
            except BaseException as error:
                yield from _rollback(session)
                if error is unsettled:
                    unsettled.outcome_unknown = True
                elif (
                    repeat_unknown
                    and isinstance(error, BrokerError)
                    and error.outcome_unknown
                    and reconnects <= RECONNECTS
                ):
                    steps, reply, restarts = make(), None, restarts + 1
                    continue
                raise

            if isinstance(packet, Undo):
                yield from _rollback(session)
                yield Sleep(backoff(packet.attempt))
                reply = []
                continue

            # 2. Send it, framed by START TRANSACTION and COMMIT where they belong.
            while True:
                opened = session.in_transaction
                rings = ring is not None and (session.places or (packet is not None and ring.is_due(packet)))
                text, count, offset, commit_at = _frame(packet, kind, opened, ring if rings else None)
                reason: DriverError
                try:
                    if session.connection is None:
                        session.connection = yield _ACQUIRE
                    session.in_flight = True
                    if failed is not None:
                        first, failed = failed, None
                        raise first
                    needed = commit_at + 1 if 0 <= commit_at < count - 1 else None
                    results = yield Send(session.connection, text, count, needed)
                except DriverError as error:
                    session.in_flight = False
                    reason = error
                    # What stands behind the COMMIT may fail: nothing depends on it.
                    results = error.results if error.index > commit_at >= 0 else None
                except CelersError as error:
                    # No connection to be had. The operation may hold something that it can still return.
                    failure = error
                    break
                if results is not None:
                    session.in_flight = False
                    session.in_transaction = commit_at < 0 and kind == "transaction"
                    session.places = rings and session.in_transaction
                    if rings and ring is not None and commit_at >= 0 and ring.was_refused(session.connection):
                        yield from _tell(session.connection, ring)
                    if packet is None:
                        return result
                    if commit_at >= 0 and not restarts:
                        attempt = reconnects = 0
                    if session.in_transaction:
                        session.changed = (opened and session.changed) or _changes(packet)
                    end = len(results) if commit_at < 0 else commit_at
                    reply = results[offset:end]
                    break

                # 3. It failed: what is known about its outcome, and what may be repeated?
                if packet is None and not session.changed:
                    # The transaction has only looked and locked. What the operation returns may be all that is known of
                    # what it committed before.
                    if reason.lost:
                        broken, session.connection = session.connection, None
                        session.in_transaction = False
                        yield Discard(broken)
                    else:
                        yield from _rollback(session)
                    return result
                if reason.lost or (reason.errno == QUERY_INTERRUPTED and reason.index == commit_at):
                    broken, session.connection = session.connection, None
                    session.in_transaction = session.places = False
                    yield Discard(broken)
                    reconnects += 1
                    if _in_doubt(reason, kind, commit_at):
                        if packet is None or not packet.repeat:
                            unknown = map_error(reason, outcome_unknown=True)
                            unknown.__cause__ = reason
                            if not (yield from _settle(session, broken, SETTLE_SECS)):
                                # The operation cannot look, so it sees an ordinary loss; the caller learns the doubt.
                                unsettled = cast(BrokerError, unknown)
                                unsettled.outcome_unknown = False
                            if packet is not None:
                                failure = unknown
                                break
                            # The operation itself is over; only its commit is in doubt.
                            if unsettled is not None or not repeat_unknown:
                                cast(BrokerError, unknown).outcome_unknown = True
                                raise unknown
                            steps, reply, restarts = make(), None, restarts + 1
                            break
                    elif kind == "transaction" and reason.index >= 0 and reason.errno not in TOLD_ERRNOS:
                        # Nothing was committed, but the old session may still hold locks that the repetition needs.
                        yield from _settle(session, broken, RELEASE_SECS)
                    if reconnects > RECONNECTS:
                        failure = map_error(reason)
                        failure.__cause__ = reason
                    elif packet is None:
                        steps, reply, restarts = make(), None, restarts + 1
                    elif opened:
                        failure = Restart()
                    else:
                        if reconnects > 1:
                            yield Sleep(backoff(reconnects - 2))
                        continue
                    if packet is None and failure is not None:
                        raise failure
                    break
                session.in_transaction = kind == "transaction"
                yield from _rollback(session)
                if reason.errno in RETRY_ERRNOS:
                    attempt += 1
                    if attempt < ATTEMPTS:
                        yield Sleep(backoff(attempt - 1))
                        if packet is None:
                            steps, reply, restarts = make(), None, restarts + 1
                            break
                        if opened:
                            failure = Restart()
                            break
                        continue
                # The operation hears of it, so that it can say more or return what it holds already.
                failure = map_error(reason) if packet is None else _meaning(packet, reason, offset)
                failure.__cause__ = reason
                if packet is None:
                    raise failure
                break
    finally:
        # What it holds (a consumer slot) is free again now, and not when somebody lets go of the traceback.
        steps.close()
        failure = thrown = unsettled = None


def drive_once(once: Once[R], session: Session, ring: Ring | None) -> Generator[Request, Any, R]:
    """Send an operation's only packet; when it fails, all goes on as if `drive` had sent it."""
    if session.connection is None:
        session.connection = yield _ACQUIRE
    connection = session.connection
    session.in_flight = True
    try:
        yield Send(connection, once.text, once.count, once.needed)
    except DriverError as error:
        failed = error
    else:
        session.in_flight = False
        if ring is not None and ring.was_refused(connection):
            yield from _tell(connection, ring)
        return once.result
    rest = drive(once.again, "transaction", session, ring=ring, failed=failed)
    del failed  # its traceback holds this frame
    yield from rest
    return once.result


def _tell(connection: Any, ring: Ring) -> Generator[Request, Any, None]:
    """Let idle consumers know that this account may not ring them, so that they poll."""
    with contextlib.suppress(DriverError):
        yield Send(connection, ring.report, 1)


def _changes(packet: Packet) -> bool:
    return not all(text.startswith(b"SELECT") for text in packet.statements)


def _in_doubt(reason: DriverError, kind: Kind, commit_at: int) -> bool:
    """After a lost connection: may something have been committed?"""
    if reason.index < 0 or kind == "read":
        return False
    told = reason.errno in TOLD_ERRNOS
    if kind == "plain":
        return not (told and reason.index == 0)
    return commit_at >= 0 and not (told and reason.index != commit_at)


def _frame(packet: Packet | None, kind: Kind, opened: bool, ring: Ring | None) -> tuple[bytes, int, int, int]:
    """Text, number of statements, index of the packet's own first statement, index of COMMIT (-1 without)."""
    if packet is None:
        return (_COMMIT, 1, 0, 0) if ring is None else (_COMMIT + b";" + ring.statement, 2, 0, 0)
    statements = packet.statements
    count = len(statements)
    if kind != "transaction":
        return (statements[0] if count == 1 else b";".join(statements)), count, 0, -1
    offset = 0 if opened else 1
    parts = (*statements, _COMMIT) if packet.commit else statements
    if offset:
        parts = (_START, *parts)
    commit_at = -1
    if packet.commit:
        commit_at = len(parts) - 1
        parts = (*parts, *packet.after)
        if ring is not None:
            parts = (*parts, ring.statement)
    return b";".join(parts), len(parts), offset, commit_at


def _meaning(packet: Packet, reason: DriverError, offset: int) -> CelersError:
    if packet.errors is not None:
        factory = packet.errors.get((reason.index - offset, reason.errno))
        if factory is not None:
            return factory()
    return map_error(reason)


def _rollback(session: Session) -> Generator[Request, Any, None]:
    """End an open transaction without effect; a connection that cannot do that is closed."""
    connection = session.connection
    session.places = False
    if connection is None or not session.in_transaction:
        session.in_transaction = False
        return
    session.in_transaction = False
    try:
        yield Send(connection, b"ROLLBACK", 1)
    except DriverError:
        session.connection = None
        yield Discard(connection)


def _settle(session: Session, lost: Connection, secs: float) -> Generator[Request, Any, bool]:
    """Make sure that a lost session can change nothing any more; False when that cannot be found out in time.

    A packet whose answer never came may still wait behind a lock and commit later, so the old thread is killed and
    waited for. A server that was started after the lost connection was opened cannot hold the thread.
    """
    deadline = time.monotonic() + secs
    delay = 0.005
    while time.monotonic() < deadline:
        try:
            if session.connection is None:
                session.connection = yield _ACQUIRE
            connection = session.connection
            if connection.server.identity != lost.server.identity:
                # Another server answers under this address: what the first one did cannot be asked here.
                return False
            if connection.created_at > lost.created_at and connection.thread_id <= lost.thread_id:
                # Thread numbers only grow while a server runs.
                return True
            uptime = yield Send(connection, b"SHOW GLOBAL STATUS LIKE 'Uptime'", 1)
            age = time.monotonic() - lost.created_at
            if int(uptime[0].rows[0][1] or b"0") + 1 < age:
                return True
            threads = yield Send(connection, b"SHOW PROCESSLIST", 1)
            if not any(int(row[0] or b"0") == lost.thread_id for row in threads[0].rows):
                return True
            yield Send(connection, b"KILL %d" % lost.thread_id, 1)
        except DriverError as error:
            if error.lost:
                broken, session.connection = session.connection, None
                yield Discard(broken)
        except BrokerConnectionError:
            session.connection = None
        except BrokerError:
            return False
        yield Sleep(delay)
        delay = min(delay * 2, 0.2)
    return False
