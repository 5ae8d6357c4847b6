"""Parts of a long sequence sent one after the other: while one is stored, the next is made ready."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

__all__ = ["OnStored", "send_parts", "send_parts_async", "told"]

T = TypeVar("T")

OnStored: TypeAlias = "Callable[[list[UUID]], object] | None"


def told(ids: list[UUID], on_stored: OnStored) -> list[UUID]:
    """Tell what is stored now, and return it."""
    if on_stored is not None:
        on_stored(ids)
    return ids


def send_parts(send: Callable[[T], list[UUID]], parts: Iterable[T], on_stored: OnStored) -> list[UUID]:
    """Send each part when the one before it is stored; `parts` makes the next one meanwhile.

    Sending is left to a thread, which waits for the server nearly all the time. An error of a part ends it: the parts
    before are stored and the later ones are not sent. When `parts` itself fails, the one on its way is waited for.
    """
    from concurrent.futures import ThreadPoolExecutor

    ids: list[UUID] = []
    sent: Future[list[UUID]] | None = None
    with ThreadPoolExecutor(1, "celers-enqueue") as lane:
        try:
            for part in parts:
                if sent is not None:
                    waiting, sent = sent, None
                    ids += told(waiting.result(), on_stored)
                sent = lane.submit(send, part)
            if sent is not None:
                waiting, sent = sent, None
                ids += told(waiting.result(), on_stored)
        except BaseException as error:
            if sent is not None:
                with suppress(Exception):
                    ids += told(sent.result(), on_stored)
            error.add_note(_note(len(ids)))
            raise
    return ids


async def send_parts_async(
    send: Callable[[T], Coroutine[Any, Any, list[UUID]]], parts: Iterable[T], on_stored: OnStored
) -> list[UUID]:
    """As `send_parts`, for asyncio."""
    import asyncio

    ids: list[UUID] = []
    sent: asyncio.Task[list[UUID]] | None = None
    try:
        for part in parts:
            if sent is not None:
                waiting, sent = sent, None
                ids += told(await waiting, on_stored)
            sent = asyncio.create_task(send(part))
            await asyncio.sleep(0)  # it is under way before the next is made
        if sent is not None:
            waiting, sent = sent, None
            ids += told(await waiting, on_stored)
    except BaseException as error:
        if sent is not None:
            with suppress(Exception):
                ids += told(await sent, on_stored)
        error.add_note(_note(len(ids)))
        raise
    return ids


def _note(count: int) -> str:
    return f"{count} of the calls are stored"
