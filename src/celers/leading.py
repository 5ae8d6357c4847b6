"""The maintenance leadership for asyncio: the named lock of `celers.heartbeat`, on a thread of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from celers.db.lines import Mail, ThreadConnection
from celers.heartbeat import Leadership, try_lead

if TYPE_CHECKING:
    from celers.db.url import ConnectOptions

__all__ = ["AsyncLeadership", "try_lead_async"]


class AsyncLeadership:
    """The named lock of the maintenance leader, held by a connection on a thread of its own.

    The server releases the lock when the connection ends, so a leader that dies is followed by another.
    """

    def __init__(self, thread: ThreadConnection, held: Leadership) -> None:
        self._thread = thread
        self._held = held

    async def alive(self) -> bool:
        """Ask the server whether this connection still holds the lock; False once it was released."""
        if self._thread.broken:
            return False
        return bool(await self._thread.submit(self._held.alive))

    async def release(self) -> None:
        """Give the lock up; twice is harmless."""
        if not self._thread.broken:
            self._thread.submit(self._held.release)
            await asyncio.shield(self._thread.leave())


async def try_lead_async(options: ConnectOptions, prefix: str) -> AsyncLeadership | None:
    """Become the maintenance leader of the database; None when another process is."""
    thread = ThreadConnection(Mail(asyncio.get_running_loop()), options)
    asked: list[Leadership | None] = []
    job = thread.submit(lambda: asked.append(try_lead(options, prefix)))
    try:
        await job
    except BaseException:
        # Also when the caller was cancelled: the thread comes to this after the answer.
        thread.submit(lambda: _let_go(asked))
        thread.leave()
        raise
    (held,) = asked
    if held is not None:
        return AsyncLeadership(thread, held)
    await asyncio.shield(thread.leave())
    return None


def _let_go(asked: list[Leadership | None]) -> None:
    for held in asked:
        if held is not None:
            held.release()
